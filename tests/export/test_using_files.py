# SPDX-License-Identifier: Apache-2.0
"""Exported files where weights stand: what they give, and what is refused."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from effdet import cli
from effdet.data.shapes import draw
from effdet.errors import EffdetError, UsageError, WeightsError
from effdet.export import ExportedNetwork, open_exported
from effdet.export.programs import read_program_info
from effdet.inference import load
from effdet.settings import PostprocessConfig
from effdet.structures import Target
from tests.export.lively import CLASS_MAP, pictures
from tests.export.made import SIZE, Made, hard
from tests.runs import tiny_coco

ROOT = Path(__file__).parents[2]


def test_validate_and_predict_take_a_file(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import validate

    # The data's classes must be those of the model.
    data = tiny_coco(tmp_path / "tiny", images=3)
    file = data / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    for row in content["annotations"]:
        row["category_id"] = {1: 3, 2: 7}[row["category_id"]]
    file.write_text(json.dumps(content))
    found = {}
    for name in ("best.pt", "raw.onnx", "raw.pt2"):
        words = ["--data", str(data), "--workers", "0", "--device", "cpu"]
        words += ["--trust-code"] * name.endswith(".pt2")
        words += ["--json", str(tmp_path / f"{name}.json"), "--weights", str(made.path(name))]
        monkeypatch.setattr(sys, "argv", ["validate.py", *words])
        validate.main()
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(found["best.pt"]) > 100
    for name in ("raw.onnx", "raw.pt2"):
        assert len(found[name]) == len(found["best.pt"])
        for a, b in zip(found["best.pt"], found[name], strict=True):
            assert a["category_id"] == b["category_id"]
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)
    words = ["--data", str(data), "--workers", "0", "--weights", str(made.path("nms.onnx"))]
    monkeypatch.setattr(sys, "argv", ["validate.py", *words])
    capsys.readouterr()
    validate.main()
    assert (
        "its own post-processing is used: --nms hard --iou-threshold 0.5 --score-threshold 0.05"
        in (capsys.readouterr().err)
    )
    monkeypatch.setattr(sys, "argv", ["validate.py", *words, "--nms", "linear"])
    with pytest.raises(UsageError, match="for --nms linear export it without --detections"):
        validate.main()
    monkeypatch.setattr(sys, "argv", ["validate.py", *words, "--nms", "gaussian"])
    with pytest.raises(UsageError, match="for --nms gaussian export it without --detections"):
        validate.main()  # though it is the default
    monkeypatch.setattr(sys, "argv", ["validate.py", *words, "--amp"])
    with pytest.raises(UsageError, match="--amp does nothing to an exported file"):
        validate.main()
    words = ["predict", str(data / "val"), "--weights", str(made.path("nms.onnx"))]
    cli.run_command([*words, "--output", str(tmp_path / "out"), "--device", "cpu"])
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 3
    (tmp_path / "default.yaml").write_text("max_candidates: 5000\n")
    with pytest.raises(UsageError, match="for --max-candidates 5000 export it so"):
        cli.run_command(
            [*words, "--output", str(tmp_path / "no"), "--config", str(tmp_path / "default.yaml")]
        )


def test_of_the_detections_inside_there_can_be_fewer_and_surer_ones(made: Made) -> None:
    detector = load(made.path("nms.onnx"), postprocess=PostprocessConfig())
    all_found = hard(detector)  # the defaults want more than there is, and follow the file
    assert 0.05 < min(found.scores.min() for found in all_found) < 0.2
    for few, found in zip(hard(detector, score_threshold=0.3), all_found, strict=True):
        assert few.scores.tolist() == found.scores[found.scores > 0.3].tolist()
    assert max(len(found) for found in hard(detector, max_detections=4)) == 4
    cats = hard(detector, classes=["cat"])
    assert {0} == {label for found in cats for label in found.labels.tolist()}
    free, clipped = all_found, hard(detector, clip_boxes=True)
    assert torch.cat([found.boxes for found in free]).min() < 0
    assert torch.cat([found.boxes for found in clipped]).min() == 0


def test_the_defaults_of_a_program_hold_as_far_as_the_file_allows(made: Made) -> None:
    found = hard(load(made.path("nms.onnx")))  # those of effdet predict
    assert min(one.scores.min() for one in found if len(one)) > 0.3
    assert torch.cat([one.boxes for one in found]).min() == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["predict", "a.jpg", "--weights", "{}", "--output", "o", "--trust-code"], "for a .pt2"),
        (["benchmark", "{}", "--trust-code"], "for a .pt2 and does nothing here"),
        (["benchmark", "{}", "--device", "cuda"], "run on the CPU here"),
        (["benchmark", "{}", "no.onnx"], "no.onnx: no such ONNX file"),
        (["benchmark", "{}", "no.pt"], "no.pt: no such weights file"),
        (["benchmark", "{}", "efficientdet_d00"], "is no file and no public release"),
        (["benchmark", "{}", "--split", "val"], "--split does nothing without --data"),
        (["export", "{}"], "raw.onnx: is an exported file already; export the weights"),
        (["export", "{}", "--output", "z.onnx"], "raw.onnx: is an exported file already"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_before_any_work(
    made: Made, words: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr("effdet.benchmark.timing._worker", start)
    with pytest.raises(EffdetError, match=re.escape(text)):
        cli.run_command([word.format(made.path("raw.onnx")) for word in words])


def test_there_is_one_cpu(made: Made) -> None:
    for name in ("raw.onnx", "best.pt"):
        with pytest.raises(UsageError, match="cpu:3"):
            load(made.path(name), device="cpu:3")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"iou_threshold": 0.7}, "--iou-threshold 0.5; for --iou-threshold 0.7 export it so, or"),
        ({"score_threshold": 0.01}, "--score-threshold 0.05; for --score-threshold 0.01 export"),
        ({"max_detections": 101}, "--max-detections 100; for --max-detections 101 export it so"),
        ({"max_candidates": 5000}, "--max-candidates 3840; for --max-candidates 5000 export"),
        ({"max_per_class": 3}, "--max-per-class 0; for --max-per-class 3 export it so, or without"),
        ({"class_agnostic": True}, "--no-class-agnostic; for --class-agnostic export it so"),
        ({"nms": "linear"}, "--nms hard; for --nms linear export it without --detections"),
        ({"sigma": 0.7}, "--sigma 0.5; for --sigma 0.7 export it without --detections"),
    ],
    ids=str,
)
def test_what_a_file_cannot_follow_is_refused_where_somebody_asked_for_it(
    made: Made, asked: dict[str, Any], text: str
) -> None:
    detector = load(made.path("nms.onnx"), postprocess=PostprocessConfig(**asked))
    detector.build_postprocess()  # a default: nobody has asked for it
    with pytest.raises(UsageError, match=re.escape(f"post-processing inside, with {text}")):
        detector.build_postprocess(**asked)
    raw = load(made.path("raw.onnx")).build_postprocess(**asked).config
    assert dataclasses.asdict(raw).items() >= asked.items()


def test_a_file_has_one_size_and_no_test_time_augmentation(made: Made) -> None:
    for name in ("raw.onnx", "nms.onnx"):
        with pytest.raises(UsageError, match=rf"{name}: has one input size, and test-time"):
            load(made.path(name)).build_search(tta=True)


@pytest.mark.parametrize("flag", ["use_ema", "channels_last"])
def test_options_of_weights_are_refused_for_a_file(made: Made, flag: str) -> None:
    words = f"--no-{flag.replace('_', '-')} does nothing to an exported file"
    with pytest.raises(UsageError, match=words):
        load(made.path("raw.onnx"), **{flag: False})


def test_images_of_another_size_are_refused(made: Made) -> None:
    with pytest.raises(UsageError, match=r"takes images of 64 x 96 pixels .*got 64 x 64"):
        made.network("raw.onnx")(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="its image size is fixed"):
        load(made.path("raw.onnx"), image_size=(64, 64))
    with pytest.raises(UsageError, match="run on the CPU here; leave out --device cuda"):
        load(made.path("raw.onnx"), device="cuda")


def test_a_program_is_not_loaded_until_it_is_trusted(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("the file was loaded")

    monkeypatch.setattr(torch.export, "load", touched)
    with pytest.raises(WeightsError, match=r"a\.bin: exported files end in \.onnx, \.xml, \.pt2"):
        open_exported("a.bin")
    with pytest.raises(UsageError, match=r"raw\.pt2 is code .* --trust-code"):
        load(made.path("raw.pt2"))
    assert read_program_info(made.path("raw.pt2"))[0] == "torch-export"


def tampered(made: Made, change: Callable[[Any], object]) -> bytes:
    import onnx

    model = onnx.load(made.path("raw.onnx"))
    change(model)
    content: bytes = model.SerializeToString()
    return content


def set_info(**changes: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        entry = model.metadata_props[0]
        entry.value = json.dumps(json.loads(entry.value) | changes)

    return change


def remove_info(name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        entry = model.metadata_props[0]
        values = json.loads(entry.value)
        del values[name]
        entry.value = json.dumps(values)

    return change


def point_outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")


BAD = {
    "no info": (lambda m: m.metadata_props.pop(), "not one that `effdet export` wrote"),
    "two": (lambda m: m.metadata_props.add(key="effdet", value="{}"), "not one that"),
    "external data": (point_outside, "tensors in other files, which are not opened"),
    "no JSON": (lambda m: setattr(m.metadata_props[0], "value", "[" * 10**5), "not a JSON text"),
    "version": (set_info(version=2), "later version"),
    "model": (set_info(model_config={"name": 3}), "model_config has missing or wrong entries"),
    "no list": (set_info(class_map=[]), "class_map has missing or wrong entries"),
    "no weights": (remove_info("weights"), "cannot be: weights missing"),
    "too large": (set_info(licence="x" * 16_000_000), "characters; at most 16,000,000 are read"),
    "classes": (set_info(class_map={"names": ["a"], "category_ids": [1]}), "1 classes for 3"),
    "postprocess": (set_info(postprocess={"nms": "hard"}), "exactly the fields"),
    "batch": (set_info(batch="all"), "batch must be a whole number"),
    "hash": (set_info(weights_sha256="x"), "64 hexadecimal"),
    "licence": (set_info(licence=["x"]), "licence must be a text"),
    "outputs": (set_info(outputs="detections"), "expected the outputs boxes, scores"),
    "graph": (lambda m: m.graph.node.pop(), "onnxruntime"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_onnx_file_is_refused_in_a_line_that_names_it(
    made: Made, tmp_path: Path, kind: str
) -> None:
    change, text = BAD[kind]
    path = tmp_path / "bad.onnx"
    path.write_bytes(tampered(made, change))
    with pytest.raises(WeightsError, match=rf"bad\.onnx: .*{re.escape(text)}"):
        load(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_junk_and_nothing_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    with pytest.raises(WeightsError, match=rf"bad\{suffix}: no such"):
        load(path)
    path.write_bytes(b"\x00junk" * 100)
    (tmp_path / "bad.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=rf"bad\{suffix}: (damaged|OpenVINO|a )"):
        load(path, trust_code=True)


@pytest.mark.parametrize(
    ("suffix", "change", "text"),
    [
        (".xml", lambda content: content[: len(content) // 2], "raw.xml: damaged.* no </net>"),
        (".xml", lambda _: b"", "raw.xml: an empty file"),
        (".xml", lambda _: b"\x08\x0a\x12 an ONNX file", "raw.xml: damaged.* no XML"),
        (
            ".bin",
            lambda content: content[:-4],
            r"raw.bin: cut short: [\d,]+ bytes, where 'raw.xml'",
        ),
    ],
    ids=["cut graph", "empty graph", "no XML", "cut weights"],
)
def test_of_two_files_the_damaged_one_is_named(
    made: Made, tmp_path: Path, suffix: str, change: Callable[[bytes], bytes], text: str
) -> None:
    for end in (".xml", ".bin"):
        shutil.copy(made.path("raw.xml").with_suffix(end), tmp_path / f"raw{end}")
    load(tmp_path / "raw.xml")
    file = tmp_path / f"raw{suffix}"
    file.write_bytes(change(file.read_bytes()))
    if suffix == ".xml":
        (tmp_path / "raw.bin").unlink()
    with pytest.raises(WeightsError, match=text):
        load(tmp_path / "raw.xml")


def test_an_empty_onnx_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(WeightsError, match=r"empty\.onnx: an empty file"):
        cli.run_command(["info", str(tmp_path / "empty.onnx")])


def test_an_output_of_another_shape_than_promised_is_refused(made: Made, tmp_path: Path) -> None:
    config = json.loads(made.reports["raw.onnx"].info.to_text())["model_config"]
    change = set_info(model_config=config | {"image_size": [64, 128]})
    (tmp_path / "a.onnx").write_bytes(tampered(made, change))
    with pytest.raises(WeightsError, match=r"a\.onnx: cannot be run: .*Got: 128 Expected: 96"):
        open_exported(tmp_path / "a.onnx")(torch.zeros(1, 3, 64, 128))
    change = set_info(model_config=config | {"num_scales": 2})
    (tmp_path / "b.onnx").write_bytes(tampered(made, change))
    with pytest.raises(WeightsError, match=r"b\.onnx: gave an output \[1, 1161, 3\] where it"):
        open_exported(tmp_path / "b.onnx")(torch.zeros(1, 3, 64, 96))


def test_a_file_of_two_images_a_call_takes_any_number(made: Made) -> None:
    network = made.network("raw.onnx")
    images, run, sizes = pictures(network.info.model_config, 5), network._run, []

    def two(part: torch.Tensor) -> Any:
        sizes.append(len(part))
        return run(part)

    fixed = ExportedNetwork(two, dataclasses.replace(network.info, batch=2), network.path)
    for a, b in zip(fixed.outputs(images), network.outputs(images), strict=True):
        assert_close(a, b)
    assert sizes == [2, 2, 2]


def test_the_example_of_the_guide_finds_the_same_with_onnxruntime_alone(
    made: Made, tmp_path: Path
) -> None:
    guide = (ROOT / "docs" / "export.md").read_text()
    (example,) = [b for b in re.findall(r"```python\n(.*?)```", guide, re.S) if "sys.argv" in b]
    assert len(example.splitlines()) <= 35
    (tmp_path / "run.py").write_text(example)
    height, width = SIZE  # no resizing: Pillow's differs
    pixels = draw("val", 0).pixels[:height, :width]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = [sys.executable, "-I", "run.py", str(made.path("nms.onnx")), "a.png"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    expected = load(made.path("nms.onnx")).predict(
        tmp_path / "a.png", score_threshold=0.05, clip_boxes=False
    )
    assert len(expected) > 5
    assert [row[0] for row in rows] == [CLASS_MAP.name(i) for i in expected.labels.tolist()]
    values = torch.tensor([[float(x) for x in row[1:]] for row in rows])
    assert_close(values[:, 0], expected.scores, rtol=0, atol=1e-3)
    assert_close(values[:, 1:], expected.boxes, rtol=0, atol=0.06)


def target() -> Target:
    return Target(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        crowd=torch.zeros(0, dtype=torch.bool),
        image_id=0,
        scale=0.5,
        size=(128, 192),
    )


def test_boxes_go_back_to_the_pixels_of_the_image(made: Made) -> None:
    network = made.network("nms.onnx")
    images = pictures(network.info.model_config, 1)
    boxes, scores, _, counts = network.outputs(images)
    process = network.build_postprocess(network.info.postprocess)
    (found,) = process(*network(images), [target()])
    assert len(found) == counts[0]
    assert_close(found.boxes, 2 * boxes[0, : len(found)])
    assert_close(found.scores, scores[0, : len(found)])
