# SPDX-License-Identifier: Apache-2.0
"""What holds for every program written in PyTorch."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from effdet.config import BACKBONES, HALF, MODELS, ClassifierConfig, ModelConfig, model_config
from effdet.weights import translate
from effdet.weights.source import Config, Shapes, Source
from effdet.weights.sources import SOURCES
from effdet.weights.sources.lukemelas import LUKEMELAS
from effdet.weights.sources.nvidia import NVIDIA
from effdet.weights.sources.pytorch import PyTorchSource
from effdet.weights.sources.rwightman import RWIGHTMAN
from effdet.weights.sources.timm import TIMM
from effdet.weights.sources.torchvision import TORCHVISION
from effdet.weights.sources.zylo117 import ZYLO117
from tests import golden
from tests.weights.exported import export, in_memory
from tests.weights.random_state import random_state

Pair = tuple[Source[Any], Config]

REPEAT_FIRST, LEVEL_FIRST = RWIGHTMAN
PADDED, DETECTOR, BACKBONE, *CLASSIFIERS = NVIDIA
LITE_IMAGES = {"mean": HALF, "std": HALF}
PLAIN: dict[str, Any] = {"padding": "symmetric", "bn_eps": 1e-5}


def detector(name: str, **changes: Any) -> ModelConfig:
    return model_config(f"efficientdet_{name}", **changes)


def nvidia_detector(name: str) -> ModelConfig:
    padding = "same" if name == "d4" else "symmetric"
    return detector(name, padding=padding, backbone_padding="symmetric", backbone_bn_eps=1e-3)


def classifier(name: str, **changes: Any) -> ClassifierConfig:
    return ClassifierConfig(backbone=f"efficientnet_{name}", **changes)


def both_of_timm(name: str, num_classes: int | None = 1000) -> list[Config]:
    images = LITE_IMAGES if "lite" in name else {}
    return [
        classifier(name, num_classes=num_classes, **images),
        classifier(name, num_classes=num_classes, **PLAIN),
    ]


LISTINGS: dict[str, tuple[Source[Any], list[Config]]] = {
    "rwightman/tf_efficientdet_d0": (REPEAT_FIRST, [detector("d0")]),
    "rwightman/efficientdet_d0": (REPEAT_FIRST, [detector("d0", padding="symmetric")]),
    "rwightman/tf_efficientdet_lite0": (REPEAT_FIRST, [detector("lite0", **LITE_IMAGES)]),
    "rwightman/tf_efficientdet_d7x": (REPEAT_FIRST, [detector("d7x")]),
    "zylo117/efficientdet-d0": (ZYLO117, [detector("d0")]),
    "zylo117/efficientdet-d8": (ZYLO117, [detector("d7x")]),
    "nvidia/efficientdet_d0": (DETECTOR, [nvidia_detector("d0")]),
    "nvidia/backbone_b0": (BACKBONE, [classifier("b0", padding="symmetric")]),
    "nvidia/efficientnet-b0": (CLASSIFIERS[2], [classifier("b0", padding="symmetric")]),
    "timm/efficientnet_b0": (TIMM, both_of_timm("b0")),
    "timm/efficientnet_b0_features": (TIMM, both_of_timm("b0", None)),
    "timm/efficientnet_lite0": (TIMM, both_of_timm("lite0")),
    "torchvision/efficientnet_b0": (TORCHVISION, [classifier("b0", **PLAIN)]),
    "torchvision/efficientnet_b5": (TORCHVISION, [classifier("b5", padding="symmetric")]),
    "lukemelas/efficientnet-b0": (LUKEMELAS, [classifier("b0")]),
    "lukemelas/efficientnet-lite0": (
        LUKEMELAS,
        [classifier("lite0", mean=(127.0,) * 3, std=(128.0,) * 3)],
    ),
}


def published_models() -> Iterator[Pair]:
    """Every model of every program, as the program has it."""
    for name, row in MODELS.items():
        short = name.removeprefix("efficientdet_")
        yield REPEAT_FIRST, dataclasses.replace(row, **(LITE_IMAGES if row.lite else {}))
        if not row.lite:
            yield ZYLO117, row
        if short in ("d0", "d1", "d2", "d3"):
            yield REPEAT_FIRST, dataclasses.replace(row, padding="symmetric")
        if short in ("d0", "d1", "d2", "d3", "d4"):
            yield DETECTOR, nvidia_detector(short)
    yield LEVEL_FIRST, detector("lite0", **LITE_IMAGES)
    yield PADDED, nvidia_detector("d0")
    for name, row in ((n.removeprefix("efficientnet_"), r) for n, r in BACKBONES.items()):
        yield TIMM, both_of_timm(name)[1]
        images = {"mean": (127.0,) * 3, "std": (128.0,) * 3} if row.lite else {}
        yield LUKEMELAS, classifier(name, **images)
        if not row.lite:
            eps = {"bn_eps": 1e-3 if name in ("b5", "b6", "b7") else 1e-5}
            yield TORCHVISION, classifier(name, padding="symmetric", **eps)
    for source in (BACKBONE, *CLASSIFIERS):
        yield source, classifier("b0", padding="symmetric")
        yield source, classifier("b4", padding="symmetric")


def name_of(value: Any) -> str | None:
    if isinstance(value, ModelConfig):
        return f"{value.name}-{value.padding}"
    if isinstance(value, ClassifierConfig):
        return f"{value.backbone}-{value.padding}"
    return f"{value.title.split()[0]}{SOURCES.index(value)}" if value in SOURCES else None


def exported_shapes(source: Source[Any], config: Config) -> Shapes:
    """Shapes of a file of ``source`` that holds the model."""
    shapes = translate.our_shapes(config)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    exported = export(source, config, state)
    return {name: tuple(tensor.shape) for name, tensor in exported.items()}


def recognising(shapes: Shapes) -> list[Source[Any]]:
    return [source for source in SOURCES if source.recognises(shapes)]


@pytest.mark.parametrize("listing", LISTINGS)
def test_every_tensor_of_the_program_is_used_exactly_once(listing: str) -> None:
    source, configs = LISTINGS[listing]
    shapes = golden.listing(listing)
    for config in configs:
        used = Counter(
            n for name in translate.our_shapes(config) for n in source.names(config, name)
        )
        assert set(used.values()) == {1}
        assert {n for n in shapes if not source.is_extra(config, n)} == set(used)


@pytest.mark.parametrize("listing", LISTINGS)
def test_a_file_of_the_program_is_told_to_be_its_model(listing: str) -> None:
    source, configs = LISTINGS[listing]
    shapes = golden.listing(listing)
    assert recognising(shapes) == [source]
    assert translate.identify(source, shapes) == configs


@pytest.mark.parametrize(("source", "config"), list(published_models()), ids=name_of)
def test_every_model_is_told_from_all_others(source: Source[Any], config: Config) -> None:
    shapes = exported_shapes(source, config)
    assert recognising(shapes) == [source]
    found = translate.identify(source, shapes)
    assert config in found
    alike = {(c.name, c.padding) for c in found}
    assert len(alike) == len(found) == (2 if _has_a_twin(source, config) else 1)


def _has_a_twin(source: Source[Any], config: Config) -> bool:
    """D6 and D7 differ in anchors and image size alone, timm's two kinds in padding."""
    return source is TIMM or getattr(config, "name", "").endswith(("_d6", "_d7"))


NARROW: list[Pair] = [
    (REPEAT_FIRST, detector("d0", width=8, bifpn_cells=2, num_classes=3)),
    (REPEAT_FIRST, detector("d0", width=8, bifpn_cells=1, padding="symmetric", fusion="attn")),
    (REPEAT_FIRST, detector("lite0", width=8, bifpn_cells=1, max_level=8)),
    (LEVEL_FIRST, detector("lite0", width=8, bifpn_cells=1)),
    (ZYLO117, detector("d0", width=8, bifpn_cells=2)),
    (ZYLO117, detector("d0", width=8, bifpn_cells=1, max_level=8, fusion="sum")),
    (PADDED, detector("d0", width=8, bifpn_cells=1)),
    (DETECTOR, detector("d0", width=8, bifpn_cells=1, num_classes=7)),
    (BACKBONE, classifier("b0", num_classes=5)),
    *((source, classifier("b0", num_classes=5)) for source in CLASSIFIERS),
    (TIMM, classifier("b0", num_classes=5)),
    (TIMM, classifier("lite1", num_classes=None)),
    (TORCHVISION, classifier("b1", num_classes=5)),
    (LUKEMELAS, classifier("b1", num_classes=5)),
]


@pytest.mark.parametrize(("source", "config"), NARROW, ids=name_of)
def test_there_and_back_gives_the_same_bits(source: Source[Any], config: Config) -> None:
    state = random_state(config)
    exported = export(source, config, state)
    assert all(tensor.is_contiguous() for tensor in exported.values())
    back = translate.state_dict(source, config, in_memory(exported))
    assert list(back) == list(state)
    for name, tensor in back.items():
        assert torch.equal(tensor, state[name]), name
        assert tensor.dtype == state[name].dtype
        assert tensor.is_contiguous(), name


@pytest.mark.parametrize("listing", LISTINGS)
def test_a_missing_a_misshapen_and_an_unknown_tensor_are_named(listing: str) -> None:
    source, (config, *_) = LISTINGS[listing]
    shapes = golden.listing(listing)
    victim = next(n for n in reversed(shapes) if n.endswith("running_mean"))
    without = {name: shape for name, shape in shapes.items() if name != victim}
    assert translate.faults(source, config, without) == [f"{victim} is missing"]
    longer = shapes | {victim: (shapes[victim][0] + 1,)}
    (fault,) = translate.faults(source, config, longer)
    assert fault == f"{victim} is {list(longer[victim])}, expected {list(shapes[victim])}"
    assert translate.faults(source, config, shapes | {"more": (1,)}) == ["more is unknown"]
    assert translate.identify(source, shapes | {"more": (1,)}) == []
    nearest = translate.nearest_model(source, shapes | {"more": (1,)})
    assert nearest is not None
    assert nearest[0] == config


@pytest.mark.parametrize("listing", LISTINGS)
def test_files_without_step_counters_are_read_too(listing: str) -> None:
    """Those written before PyTorch 0.4.1."""
    source, configs = LISTINGS[listing]
    shapes = golden.listing(listing)
    old = {name: shape for name, shape in shapes.items() if not name.endswith(translate.COUNTER)}
    assert len(old) < len(shapes)
    assert translate.identify(source, old) == configs


@pytest.mark.parametrize("shapes", [{}, {"weight": (2,)}, {"state_dict": ()}])
def test_what_no_program_wrote_is_recognised_by_none(shapes: Shapes) -> None:
    assert recognising(shapes) == []


@pytest.mark.parametrize(
    "source", [source for source in SOURCES if isinstance(source, PyTorchSource)], ids=name_of
)
def test_a_file_with_nothing_but_a_mark_is_no_model(source: Source[Any]) -> None:
    """Names that a program is recognised by, in a file that is none of its models at all."""
    marks: Shapes = dict.fromkeys(
        (
            *("backbone.input_conv.0.weight", "input_conv.0.weight", "stem.conv.weight"),
            *("class_net.conv_rep.0.conv_dw.weight", "conv_stem.weight", "_conv_stem.weight"),
            *("features.0.0.weight", "features.1.0.block.0.0.weight"),
            "backbone_net.model._conv_stem.conv.weight",
        ),
        (),
    )
    assert translate.identify(source, marks) == []
    nearest = translate.nearest_model(source, marks)
    assert nearest is not None
    assert nearest[1]
