# SPDX-License-Identifier: Apache-2.0
"""Files of a small model with all parts of an EfficientDet: written, read, run."""

import copy
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from effdet import cli
from effdet.commands import export as command
from effdet.config import model_config
from effdet.errors import ExportError, UsageError
from effdet.export import export, open_exported, writing
from effdet.export.checking import check_inputs, find_images
from effdet.export.network import DeployedNetwork
from effdet.export.onnx_detections import add_detections
from effdet.export.onnx_file import onnx_content, read_onnx
from effdet.export.programs import read_program_info
from effdet.inference import Detector, load
from effdet.models import build_model
from effdet.postprocess import Postprocess
from effdet.settings import ExportConfig
from tests.export.lively import CLASS_MAP, pictures
from tests.export.made import FORMS, SIZE, Made, hard
from tests.runs import tiny_coco
from tests.test_options import recording, unread

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", list(FORMS))
def test_a_file_finds_what_pytorch_finds(made: Made, reference: Detector, name: str) -> None:
    expected = hard(reference, max_candidates=3840)
    found = hard(load(made.path(name), trust_code=True), max_candidates=3840)
    assert sum(map(len, expected)) > 20
    for a, b in zip(expected, found, strict=True):
        assert a.labels.tolist() == b.labels.tolist()
        assert_close(a.scores, b.scores, rtol=0, atol=1e-4)
        assert_close(a.boxes, b.boxes, rtol=0, atol=0.02)


def test_raw_outputs_are_logits_and_decoded_boxes(made: Made, reference: Detector) -> None:
    images = pictures(reference.config, 3)
    with torch.no_grad():
        expected = DeployedNetwork(reference.model, reference.config)(images)
    for name in ("raw.onnx", "raw.xml", "raw.pt2"):
        network = made.network(name)
        for count in (1, 3, 0):
            found = network.outputs(images[:count])
            assert [list(x.shape) for x in found] == [[count, 1161, 3], [count, 1161, 4]]
            for a, b in zip(expected, found, strict=True):
                assert_close(a[:count], b, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"iou_threshold": 0.2, "score_threshold": 0.3},
        {"max_detections": 7},
        {"max_per_class": 2},
        {"class_agnostic": True},
        {"max_candidates": 50},
        {"score_threshold": 0.999999},
    ],
    ids=str,
)
def test_suppression_inside_is_the_toolkits(
    made: Made, reference: Detector, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = ExportConfig(weights="x", detections=True, **settings).postprocess()
    _, info = read_onnx(made.path("nms.onnx"))
    info = dataclasses.replace(info, postprocess=config)
    graph = copy.deepcopy(made.onnx)
    add_detections(graph, info)
    (tmp_path / "a.onnx").write_bytes(onnx_content(graph, info))
    network = open_exported(tmp_path / "a.onnx")
    images = pictures(reference.config, 4)
    with torch.no_grad():
        levels, deltas = reference.model(images)
    process = Postprocess(anchors=network.anchors, config=config, class_map=CLASS_MAP)
    expected = process.detect(levels, deltas, torch.ones(4), torch.zeros(4, 2))
    boxes, scores, labels, counts = network.outputs(images)
    assert scores.shape == (4, min(config.max_detections, config.max_candidates))
    assert counts.tolist() == expected.counts.tolist()
    assert (counts.sum() > 0) == (config.score_threshold < 0.99)
    for i, n in enumerate(counts.tolist()):
        assert labels[i, :n].tolist() == expected.labels[i, :n].tolist()
        assert 1 not in labels[i, :n]  # the slot without a class
        assert_close(scores[i, :n], expected.scores[i, :n], rtol=0, atol=1e-4)
        assert_close(boxes[i, :n], expected.boxes[i, :n], rtol=0, atol=0.01)
        assert (labels[i, n:] == -1).all()
        assert not scores[i, n:].any()
        assert not boxes[i, n:].any()


def test_everything_that_use_needs_travels_inside_and_no_path_of_this_machine(made: Made) -> None:
    for name in FORMS:
        info = made.reports[name].info
        found = read_program_info(made.path(name))[1] if ".pt2" in name else made.network(name).info
        assert found == info
        assert found.class_map == CLASS_MAP
        assert found.model_config.image_size == SIZE
        assert (found.licence, found.origin) == ("CC0-1.0", "nowhere")
        assert re.fullmatch("[0-9a-f]{64}", found.weights_sha256)
        for file in made.reports[name].files:
            content = file.read_bytes()
            for folder in (str(ROOT), str(made.folder), "site-packages"):
                assert folder.encode() not in content, file


@pytest.mark.parametrize(
    ("name", "form"),
    [("nms.onnx", "ONNX"), ("raw.xml", "OpenVINO"), ("raw.pt2", "program of torch.export")],
)
def test_effdet_info_tells_what_a_file_is(
    made: Made, capsys: pytest.CaptureFixture[str], name: str, form: str
) -> None:
    cli.run_command(["info", str(made.path(name)), "--json"])
    (about,) = json.loads(capsys.readouterr().out)
    assert (about["form"], about["model"], about["image_size"]) == (form, "tiny", "64 x 96")
    assert about["input"] == "images [batch, 3, 64, 96]"
    raw = ["cls_logits [batch, 1161, 3]", "boxes [batch, 1161, 4]"]
    inside = ["boxes [batch, 100, 4]", "scores [batch, 100]", "labels [batch, 100]"]
    assert about["outputs"] == ([*inside, "counts [batch]"] if name == "nms.onnx" else raw)
    options = "--nms hard --iou-threshold 0.5 --score-threshold 0.05 --max-candidates 3840"
    options += " --max-detections 100 --max-per-class 0 --no-class-agnostic"
    assert about["post-processing"] == (options if name == "nms.onnx" else "none")
    assert about["classes"] == ["cat", "dog"]
    cli.run_command(["info", str(made.path(name))])
    assert "model      tiny\n" in capsys.readouterr().out


def test_nothing_lies_beside_a_file_until_it_is_whole(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = writing.write, []

    def write(*arguments: Any) -> None:
        real(*arguments)
        seen.append(list(tmp_path.iterdir()))

    monkeypatch.setattr(writing, "write", write)
    export(ExportConfig(weights=str(made.weights), output=str(tmp_path / "a.onnx"), check_count=1))
    assert seen == [[]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_network_to_be_exported_changes_nothing_in_place() -> None:
    """An exporter takes each such operation apart, which took most of the time."""
    config = model_config("efficientdet_lite0", image_size=(64, 64), num_classes=3)
    network = DeployedNetwork(build_model(config), config)
    activations = [m for m in network.modules() if isinstance(m, torch.nn.ReLU6)]
    assert activations
    assert not any(activation.inplace for activation in activations)


def test_check_images_may_lie_in_folders_of_a_folder(made: Made, tmp_path: Path) -> None:
    image = tmp_path / "a" / "b" / "x.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(image)
    assert find_images(str(tmp_path)) == [image]
    info = made.reports["raw.onnx"].info
    assert len(check_inputs(info, [image], 5)) == 1
    assert len(check_inputs(info, [], 5)) == 5  # drawn


def test_a_graph_names_its_batch_and_has_no_pooling_that_rounds_up(made: Made) -> None:
    dims = [d.dim_param for v in made.onnx.graph.output for d in v.type.tensor_type.shape.dim]
    assert dims == ["batch", "", "", "batch", "", ""]
    pools = [node for node in made.onnx.graph.node if node.op_type == "MaxPool"]
    assert pools
    for node in pools:
        assert {a.name: a.i for a in node.attribute}["ceil_mode"] == 0


def test_the_report_names_shapes_size_check_and_next_commands(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls, read = recording(ExportConfig)
    monkeypatch.setattr(command, "ExportConfig", cls)
    photos = tiny_coco(tmp_path / "tiny", images=2) / "val"
    words = [str(made.weights), "--check-images", str(photos), "--check-count", "2"]
    (tmp_path / "a.onnx").write_text("old")
    words += ["--output", str(tmp_path / "a.onnx"), "--detections", "--force"]
    cli.run_command(["export", *words])
    assert unread(ExportConfig, read) == set()
    text = capsys.readouterr().out
    assert re.search(r"a\.onnx: [\d.]+ MB\n", text)
    assert "input           images [batch, 3, 64, 96]\n" in text
    assert "output          boxes [batch, 100, 4]\n" in text
    assert f"checked against PyTorch on 2 images of {photos}:\n" in text
    assert re.search(r"\d+ detections, boxes within \S+ pixels, scores within", text)
    name = tmp_path / "a.onnx"
    assert text.split("next: ")[1].splitlines() == [
        f"effdet predict {photos} --weights {name} --output out",
        f"      effdet benchmark {made.weights} {name}",
    ]


def test_a_file_is_checked_on_what_its_run_was_validated_on(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, kept = tiny_coco(tmp_path / "tiny", images=3).absolute(), tmp_path / "run" / "report"
    kept.mkdir(parents=True)
    (kept / "best.json").write_text(json.dumps({"images": str(data)}))
    names = [f"val/{path.name}" for path in (data / "val").iterdir()]
    (kept / "truth.json").write_text(json.dumps({"images": [{"file_name": n} for n in names]}))
    shutil.copy(made.weights, "run/best.pt")
    (data / names[0]).write_bytes(b"no image")
    cli.run_command(["export", "run/best.pt"])
    text = capsys.readouterr().out
    assert "checked against PyTorch on 2 images of tiny/val:\n" in text
    assert "next: effdet predict tiny/val --weights run/best.onnx --output out\n" in text


def test_a_file_that_differs_is_not_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writing.program_to_onnx

    def wrong(program: object, opset: int) -> Any:
        graph = real(program, opset)
        bias = next(t for t in graph.graph.initializer if "class_head.predict" in t.name)
        values = bytearray(bias.raw_data)
        values[3] ^= 0x01  # the exponent of one weight
        bias.raw_data = bytes(values)
        return graph

    monkeypatch.setattr(writing, "program_to_onnx", wrong)
    output = tmp_path / "a.onnx"
    with pytest.raises(ExportError, match=r"does not give what PyTorch gives on 2 drawn pictures"):
        export(ExportConfig(weights=str(made.weights), output=str(output), check_count=2))
    assert list(tmp_path.iterdir()) == []


def test_detections_inside_are_compared_or_nothing_is_written(made: Made, tmp_path: Path) -> None:
    words = {"detections": True, "score_threshold": 0.999999, "check_count": 1}
    output = tmp_path / "a.onnx"
    with pytest.raises(ExportError, match=r"nothing was found on 1 drawn picture, so.*--check"):
        export(ExportConfig(weights=str(made.weights), output=str(output), **words))
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_only_where_that_is_wanted(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "a.xml"
    beside = tmp_path / "a.bin"
    beside.write_text("mine")
    config = ExportConfig(
        weights=str(made.weights), format="openvino", output=str(output), check_count=1
    )
    with pytest.raises(UsageError, match=r"a\.bin is there already; give --force"):
        export(config)
    assert beside.read_text() == "mine"
    export(dataclasses.replace(config, force=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    with pytest.raises(UsageError, match=r"a file of --format openvino ends in \.xml"):
        export(dataclasses.replace(config, output="a.onnx"))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime", "openvino"])
def test_a_missing_package_is_named_with_its_extra_before_any_work(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = "openvino" if package == "openvino" else "onnx,openvino"
    config = ExportConfig(
        weights="does not matter", format="openvino", output=str(tmp_path / "a.xml")
    )
    with pytest.raises(ExportError, match=rf"{package}.*effdet-toolkit\[{extra}\]"):
        export(config)
    if package in ("onnx", "onnxruntime"):
        with pytest.raises(ExportError, match=rf"{package}.*effdet-toolkit\[onnx\]"):
            load(made.path("raw.onnx"))


def test_openvino_comes_without_its_telemetry() -> None:
    code = (
        "import sys\n"
        "from effdet.export.openvino_file import import_openvino\n"
        "import_openvino('a test').Core()\n"
        "assert 'openvino.tools.ovc' in sys.modules  # what reports, with a stub\n"
        "print(sys.modules['openvino_telemetry'], 'openvino_telemetry.main' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None False"
