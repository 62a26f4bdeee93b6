# SPDX-License-Identifier: Apache-2.0
import argparse
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet.config import MODELS, ClassifierConfig, ModelConfig, model_config
from effdet.errors import UsageError, WeightsError
from effdet.models import EfficientDet, EfficientNetClassifier
from effdet.settings import ConvertConfig, TrainConfig
from effdet.weights import (
    Checkpoint,
    load_classifier,
    load_detector,
    save_checkpoint,
    translate,
)
from effdet.weights import (
    open as opening,
)
from effdet.weights.coco import COCO_CLASSES
from effdet.weights.convert import convert_weights
from effdet.weights.describe import describe_weights, format_weights
from effdet.weights.published import save_published
from effdet.weights.releases import RELEASES, Release
from effdet.weights.source import Config
from effdet.weights.sources.nvidia import NVIDIA
from effdet.weights.sources.rwightman import RWIGHTMAN
from effdet.weights.sources.timm import TIMM
from tests.tiny import tiny_model
from tests.weights.exported import export

RWIGHTMANS = RWIGHTMAN[0]


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    """A model of its own size in the tables, as quick as it gets."""
    with tiny_model(), pytest.MonkeyPatch.context() as patch:
        patch.delitem(MODELS, "still")  # its tensors are those of "tiny"
        yield


def state_of(config: Config) -> dict[str, Tensor]:
    torch.manual_seed(3)
    kind = EfficientDet if isinstance(config, ModelConfig) else EfficientNetClassifier
    return kind(config).state_dict()  # type: ignore[arg-type]


def detector_file(path: Path, name: str = "tiny", num_classes: int = 90, **changes: Any) -> Path:
    """A detector as rwightman's program saves it."""
    config = model_config(name, num_classes=num_classes, **changes)
    torch.save(export(RWIGHTMANS, config, state_of(config)), path)
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return detector_file(tmp_path / "foreign.pth")


def test_90_outputs_are_cocos_categories(foreign: Path) -> None:
    checkpoint = load_detector(foreign)
    assert checkpoint.model_config == model_config("tiny")
    assert checkpoint.class_map == COCO_CLASSES
    assert "rwightman" in checkpoint.origin
    ours = state_of(model_config("tiny"))
    assert checkpoint.model.keys() == ours.keys()
    assert all(torch.equal(checkpoint.model[name], ours[name]) for name in ours)


def test_other_outputs_are_numbered_or_named(tmp_path: Path) -> None:
    path = detector_file(tmp_path / "a.pth", num_classes=3)
    assert load_detector(path).class_map.names == ("class 1", "class 2", "class 3")
    named = load_detector(path, classes=("cat", "dog", "cow")).class_map
    assert (named.names, named.category_ids) == (("cat", "dog", "cow"), (1, 2, 3))
    with pytest.raises(WeightsError, match="3 class outputs, but 2 names were given"):
        load_detector(path, classes=("cat", "dog"))


def test_coco_has_the_names_of_its_annotations(data_folder: Path) -> None:
    import json

    path = data_folder / "coco_mini" / "annotations" / "instances_val2017.json"
    if not path.is_file():
        pytest.skip(f"no COCO annotations: {path} is missing")
    categories = json.loads(path.read_text())["categories"]
    assert {c["id"]: c["name"] for c in categories} == {
        COCO_CLASSES.category_ids[i]: COCO_CLASSES.names[i] for i in COCO_CLASSES.named
    }


def test_models_whose_tensors_are_alike_are_asked_about() -> None:
    with torch.device("meta"):
        config = model_config("efficientdet_d7")
        tensors = export(RWIGHTMANS, config, EfficientDet(config).state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    configs = tuple(translate.identify(RWIGHTMANS, shapes))
    found = opening.Found(
        file=None,  # type: ignore[arg-type]
        source=RWIGHTMANS,
        configs=configs,
        sha256=None,
        release=None,
    )
    choose = opening._the_one
    with pytest.raises(UsageError, match="efficientdet_d6 and efficientdet_d7 alike; give --model"):
        choose(found, Path("a.pth"), None, None)
    chosen = choose(found, Path("a.pth"), "efficientdet_d7", None)
    assert isinstance(chosen, ModelConfig)
    assert chosen.anchor_scale == 5.0


def classifier_file(path: Path, **changes: Any) -> Path:
    config = ClassifierConfig(backbone="efficientnet_tiny", **changes)
    torch.save(export(TIMM, config, state_of(config)), path)
    return path


def test_paddings_that_no_tensor_tells_apart_are_asked_about(tmp_path: Path) -> None:
    path = classifier_file(tmp_path / "a.pth")
    with pytest.raises(UsageError, match="padding same and symmetric alike; give --padding"):
        load_classifier(path)
    assert load_classifier(path, padding="symmetric").config.bn_eps == 1e-5
    assert load_classifier(path, padding="same").config.bn_eps == 1e-3


def test_the_bytes_of_a_public_release_say_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = classifier_file(tmp_path / "renamed.bin")
    release = Release(
        name="mine", url="https://example.org/a.pth", sha256=opening.sha256_of(path),
        model="efficientnet_tiny", padding="symmetric", mean=(1.0,) * 3, std=(2.0,) * 3,
        source="timm",
    )  # fmt: skip
    monkeypatch.setattr(opening, "release_with_hash", {release.sha256: release}.get)
    config = load_classifier(path).config
    assert (config.padding, config.mean, config.std) == ("symmetric", (1.0,) * 3, (2.0,) * 3)


def test_every_release_is_of_a_program_that_is_read() -> None:
    import importlib

    for program in {release.source for release in RELEASES.values()}:
        importlib.import_module(f"effdet.weights.sources.{program}")


def test_an_unknown_model_is_refused_with_the_nearest(tmp_path: Path) -> None:
    config = dataclasses.replace(model_config("tiny"), bifpn_cells=2)
    path = tmp_path / "a.pth"
    torch.save(export(RWIGHTMANS, config, state_of(config)), path)
    with pytest.raises(WeightsError) as caught:
        load_detector(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: weights of rwightman")
    assert "nearest tiny: fpn.cell.1." in said
    assert "\n" not in said


def test_a_number_that_is_not_finite_is_named(foreign: Path) -> None:
    tensors = torch.load(foreign, weights_only=True)
    tensors["box_net.predict.conv_pw.bias"][3] = torch.nan
    torch.save(tensors, foreign)
    with pytest.raises(WeightsError, match=r"box_net.predict.conv_pw.bias is not .* finite"):
        load_detector(foreign)


def test_half_precision_becomes_float32(foreign: Path) -> None:
    tensors = torch.load(foreign, weights_only=True)
    torch.save({n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}, foreign)
    kinds = {t.dtype for t in load_detector(foreign).model.values()}
    assert kinds == {torch.float32, torch.int64}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_converted_file_is_the_same_detector(suffix: str, foreign: Path, tmp_path: Path) -> None:
    output = tmp_path / f"mine{suffix}"
    words = ConvertConfig(
        source=str(foreign), output=str(output), mean=(127.5,) * 3, std=(127.5,) * 3,
        licence="Apache-2.0",
    )  # fmt: skip
    assert convert_weights(words).startswith(f"{output}: tiny, 80 classes in 90 outputs, from rw")
    first, second = load_detector(foreign), load_detector(output)
    assert second.model_config == dataclasses.replace(
        first.model_config, mean=(127.5,) * 3, std=(127.5,) * 3
    )
    assert (second.class_map, second.licence) == (first.class_map, "Apache-2.0")
    assert second.origin == first.origin
    assert all(torch.equal(second.best_weights()[n], t) for n, t in first.model.items())
    with pytest.raises(UsageError, match="is there already"):
        convert_weights(words)


def test_convert_alone_reads_what_is_lifeless(foreign: Path, tmp_path: Path) -> None:
    tensors = torch.load(foreign, weights_only=True)
    best = {"state_dict": tensors, "args": argparse.Namespace(lr=1), "metric": np.float64(0.5)}
    torch.save(best, foreign)
    with pytest.raises(WeightsError, match="effdet convert"):
        load_detector(foreign)
    output = tmp_path / "mine.safetensors"
    convert_weights(ConvertConfig(source=str(foreign), output=str(output)))
    assert load_detector(output).model_config == model_config("tiny")
    assert "argparse.Namespace" in " ".join(describe_weights(foreign)["also_holds"])


def test_averages_are_preferred_and_can_be_left(tmp_path: Path) -> None:
    config = model_config("tiny")
    state = state_of(config)
    average = {n: t + 1 if t.is_floating_point() else t for n, t in state.items()}
    path = tmp_path / "a.pth.tar"
    torch.save(
        {
            "state_dict": export(RWIGHTMANS, config, state),
            "state_dict_ema": export(RWIGHTMANS, config, average),
        },
        path,
    )
    name = "backbone.stem.conv.weight"
    assert torch.equal(load_detector(path).model[name], average[name])
    assert torch.equal(load_detector(path, use_ema=False).model[name], state[name])


def test_convert_names_what_it_cannot_write(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends with \.safetensors or \.pt"):
        convert_weights(ConvertConfig(source=str(foreign), output=str(tmp_path / "a.onnx")))
    with pytest.raises(UsageError, match="std must be above 0"):
        ConvertConfig(source="a", output="b.pt", std=(1.0, 0.0, 1.0))


@pytest.mark.parametrize(
    "options",
    [{"model": "efficientdet_d3"}, {"model": "tinny"}, {"padding": "symmetric"}],
)
def test_convert_refuses_options_that_the_file_contradicts(
    options: Any, foreign: Path, tmp_path: Path
) -> None:
    (option,) = options
    output = tmp_path / "a.safetensors"
    convert_weights(ConvertConfig(source=str(foreign), output=str(tmp_path / "ours.pt")))
    for source in (foreign, tmp_path / "ours.pt"):
        with pytest.raises(UsageError, match=f"has {option} .*; leave out --{option}"):
            convert_weights(ConvertConfig(source=str(source), output=str(output), **options))
    with pytest.raises(UsageError, match="has classes of its own; leave out --classes"):
        convert_weights(
            ConvertConfig(source=str(tmp_path / "ours.pt"), output=str(output), classes=("a", "b"))
        )
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"std": (math.nan, 1.0, 1.0)}, "std must be above 0, got nan"),
        ({"mean": (math.inf, 1.0, 1.0)}, "mean must be finite, got inf"),
        ({"classes": ("cat", "dog", "cat")}, "names that differ, got 'cat'"),
        ({"classes": ("cat", " ")}, "names that differ, got ' '"),
    ],
)
def test_convert_refuses_values_that_no_model_has(options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ConvertConfig(source="a", output="b.pt", **options)


def test_convert_takes_the_raw_weights_of_our_checkpoints(foreign: Path, tmp_path: Path) -> None:
    raw = load_detector(foreign)
    ema = {name: tensor + 1 for name, tensor in raw.model.items()}
    trained = dataclasses.replace(raw, ema=ema, chosen="ema", metrics={"AP": 0.5})
    save_checkpoint(trained, tmp_path / "run.pt")
    name = "backbone.stem.conv.weight"
    for use_ema, state, metrics in ((True, ema, {"AP": 0.5}), (False, raw.model, {})):
        output = tmp_path / f"{use_ema}.safetensors"
        convert_weights(
            ConvertConfig(source=str(tmp_path / "run.pt"), output=str(output), use_ema=use_ema)
        )
        written = load_detector(output)
        assert torch.equal(written.model[name], state[name])
        assert written.metrics == metrics


def test_weights_of_integers_are_refused(foreign: Path, tmp_path: Path) -> None:
    state = torch.load(foreign, weights_only=True)
    state["backbone.conv_stem.weight"] = state["backbone.conv_stem.weight"].to(torch.int8)
    torch.save(state, tmp_path / "int8.pth")
    with pytest.raises(WeightsError, match=r"conv_stem\.weight is torch\.int8, expected floating"):
        load_detector(tmp_path / "int8.pth")


def test_what_kind_of_model_it_is_comes_before_which(tmp_path: Path) -> None:
    path = classifier_file(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"an ImageNet classifier .* --backbone-weights"):
        load_detector(path)


def test_info_tells_a_foreign_file(foreign: Path) -> None:
    about = describe_weights(foreign)
    assert about["model"] == "tiny"
    assert about["outputs"] == 90
    assert "rwightman" in about["program"]
    assert f"file       {foreign}" in format_weights(about)


def test_info_tells_our_files(foreign: Path, tmp_path: Path) -> None:
    checkpoint = load_detector(foreign)
    trained = dataclasses.replace(
        checkpoint, metrics={"AP": 0.25}, training={"step": 12}, licence="MIT"
    )
    for path, save in ((tmp_path / "a.pt", save_checkpoint), (tmp_path / "a.st", save_published)):
        save(trained, path)
        about = describe_weights(path)
        assert (about["model"], about["program"], about["licence"]) == (
            "tiny", "effdet-toolkit", "MIT",
        )  # fmt: skip
        assert about["metrics"] == {"AP": 0.25}
        assert about["classes"][:2] == ["person", "bicycle"]


@pytest.mark.parametrize("change", [{"class_map": []}, {"metrics": None}, {"model_config": {}}])
def test_info_names_a_checkpoint_with_a_wrong_entry(
    change: Any, foreign: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(load_detector(foreign), path)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(WeightsError, match=r"a\.pt: has a missing or wrong entry"):
        describe_weights(path)


def test_info_tells_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"layer.weight": torch.ones(2, 3)}, path)
    about = describe_weights(path)
    assert "no program this toolkit knows" in about["program"]
    assert (about["tensors"], about["numbers"]) == (1, 6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b" + bytes(30), "a gzip archive; unpack it"),
        (b"", "an empty file"),
        (b"GIF89a" + bytes(30), "not a weights file: expected a PyTorch"),
    ],
)
def test_what_is_no_weights_file_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load_detector(path)


# ---- settings that come from the weights


def test_the_weights_say_what_the_options_leave_open(tmp_path: Path) -> None:
    other = model_config(
        "efficientdet_lite0", image_size=(64, 96), mean=(1.0,) * 3, fusion="fastattn"
    )
    config = TrainConfig(weights="a").settled(other)
    assert config.model_config(num_classes=90) == other
    assert config.settled(other) == config
    given = TrainConfig(weights="a", model="efficientdet_lite0", mean=(2.0,) * 3).settled(other)
    assert given.model_config(num_classes=3).mean == (2.0,) * 3
    assert given.model_config(num_classes=3).image_size == (320, 320)
    assert TrainConfig().settled(None).model == "efficientdet_d0"


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_a_classifier_says_its_detector(padding: Any) -> None:
    found = ClassifierConfig(backbone="efficientnet_lite1", padding=padding, bn_eps=1e-3)
    config = TrainConfig(backbone_weights="a").settled(found).model_config(num_classes=2)
    assert (config.name, config.padding) == ("efficientdet_lite1", padding)
    assert (config.backbone_eps, config.mean, config.std) == (1e-3, found.mean, found.std)


def test_nvidias_d4_keeps_its_two_paddings() -> None:
    detector = next(s for s in NVIDIA if "padded" not in vars(s) or not s.padded)
    other = model_config("efficientdet_d4", backbone_padding="symmetric", backbone_bn_eps=1e-3)
    assert detector.title
    assert TrainConfig(weights="a").settled(other).model_config(num_classes=90) == other


def test_a_checkpoint_of_ours_is_read_from_both_forms(foreign: Path, tmp_path: Path) -> None:
    checkpoint: Checkpoint = load_detector(foreign)
    for name, save in (("a.pt", save_checkpoint), ("a.safetensors", save_published)):
        save(checkpoint, tmp_path / name)
        again = load_detector(tmp_path / name)
        assert again.model_config == checkpoint.model_config
        assert again.class_map == checkpoint.class_map


def test_a_classifier_is_converted_too(tmp_path: Path) -> None:
    path = classifier_file(tmp_path / "a.pth.tar")
    torch.save(
        {"state_dict": torch.load(path, weights_only=True), "args": argparse.Namespace(a=1)}, path
    )
    with pytest.raises(WeightsError, match="effdet convert"):
        load_classifier(path, padding="same")
    output = tmp_path / "mine.safetensors"
    words: dict[str, Any] = {"source": str(path), "output": str(output), "padding": "symmetric"}
    with pytest.raises(UsageError, match="leave out --classes"):
        convert_weights(ConvertConfig(**words, classes=("a",)))
    with pytest.raises(UsageError, match=r"written as \.safetensors"):
        convert_weights(ConvertConfig(**words | {"output": str(tmp_path / "a.pt")}))
    said = convert_weights(ConvertConfig(**words, mean=(1.0,) * 3, licence="MIT"))
    assert said.startswith(f"{output}: classifier efficientnet_tiny, from timm")
    again = load_classifier(output)
    assert (again.config.padding, again.config.bn_eps) == ("symmetric", 1e-5)
    assert (again.config.mean, again.licence) == ((1.0,) * 3, "MIT")
    ours = state_of(ClassifierConfig(backbone="efficientnet_tiny"))
    assert all(torch.equal(again.state[name], ours[name]) for name in ours)
    assert describe_weights(output)["model"] == "efficientnet_tiny"
    with pytest.raises(WeightsError, match=r"goes to train\.py --backbone-weights"):
        load_detector(output)
    content = bytearray(output.read_bytes())
    content[-1] ^= 1
    output.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged: not the bytes"):
        load_classifier(output)


def test_an_output_without_a_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    output = tmp_path / "none" / "a.pt"
    with pytest.raises(UsageError, match=r"there is no folder .*none; make it first"):
        convert_weights(ConvertConfig(source="nothing.pth", output=str(output)))


def test_info_knows_the_names_of_releases() -> None:
    with pytest.raises(UsageError, match="effdet download tf_efficientdet_d0"):
        describe_weights(Path("tf_efficientdet_d0"))
