# SPDX-License-Identifier: Apache-2.0
"""What the programs written in PyTorch have in common: tensors are laid out as ours."""

import functools
import re
from typing import Generic, TypeVar

from torch import Tensor

from effdet.config import BACKBONES, MODELS, ClassifierConfig, ModelConfig
from effdet.models.efficientnet import STEM_CHANNELS, scaled_channels, scaled_stages
from effdet.weights.source import Config, Shapes

NODE = re.compile(r"bifpn\.cells\.(\d+)\.nodes\.(\d+)\.(.+)")
HEAD = re.compile(r"(class|box)_head\.(.+)")
"""Modules of ours in the pyramid and in the heads."""

C = TypeVar("C", bound=Config, contravariant=True)

_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.(.+)")


class PyTorchSource(Generic[C]):
    """A program whose tensors differ from ours by name; others override what differs more."""

    def to_ours(self, config: C, name: str, values: list[Tensor]) -> Tensor:
        """The file's tensor as it is."""
        (value,) = values
        return value

    def from_ours(self, config: C, name: str, value: Tensor) -> list[Tensor]:
        """Our tensor as it is."""
        return [value]

    def is_extra(self, config: C, name: str) -> bool:
        """No: every tensor of the file is one of the network's."""
        return False

    def other_model(self, shapes: Shapes) -> str | None:
        """None: what is no model of ours is told by its shapes."""
        return None


class PyTorchClassifier(PyTorchSource[ClassifierConfig]):
    """A program's classifiers, with or without their head.

    Attributes:
        last: how the names of the last convolution and its batch norm begin.
    """

    last: tuple[str, ...]

    def is_extra(self, config: ClassifierConfig, name: str) -> bool:
        """The last convolution of a model without classifier."""
        return config.num_classes is None and name.startswith(self.last)


class PyTorchDetector(PyTorchSource[ModelConfig]):
    """A program whose detectors have box channels in the order (ty, tx, th, tw)."""

    def to_ours(self, config: ModelConfig, name: str, values: list[Tensor]) -> Tensor:
        """The file's tensor, box channels as (tx, ty, tw, th)."""
        (value,) = values
        return swap_xy(value) if name.startswith("box_head.predict.pointwise.") else value

    def from_ours(self, config: ModelConfig, name: str, value: Tensor) -> list[Tensor]:
        """Our tensor, box channels as (ty, tx, th, tw)."""
        return [swap_xy(value) if name.startswith("box_head.predict.pointwise.") else value]


def split(name: str) -> tuple[int | None, str, str]:
    """Block, layer and leaf of our tensor ``name`` of a backbone or classifier.

    ``backbone.blocks.3.expand.bn.weight`` is ``(3, "expand.bn", "weight")``, and
    ``backbone.stem.conv.weight`` is ``(None, "backbone.stem.conv", "weight")``.
    """
    module, leaf = name.rsplit(".", 1)
    match = _BLOCK.fullmatch(module)
    return (None, module, leaf) if match is None else (int(match[1]), match[2], leaf)


@functools.cache
def places(backbone: str) -> list[tuple[int, int]]:
    """Stage and index in it of every block, both from 0."""
    stages = scaled_stages(BACKBONES[backbone])
    return [(s, i) for s, stage in enumerate(stages) for i in range(stage.repeats)]


def expands(backbone: str, block: int) -> bool:
    """Whether a block widens its input first; those of the first stage do not."""
    return places(backbone)[block][0] != 0


def first_size(shapes: Shapes, name: str) -> int | None:
    """Length of the first axis of tensor ``name``; None where there is none."""
    shape = shapes.get(name)
    return shape[0] if shape else None


def stem_channels(backbone: str) -> int:
    """Channels of the first convolution."""
    config = BACKBONES[backbone]
    return STEM_CHANNELS if config.lite else scaled_channels(STEM_CHANNELS, config.width)


def likely_backbones(shapes: Shapes, stem: str, *, lite: bool) -> list[str]:
    """The backbones whose first convolution is as wide as tensor ``stem``, or nearest to that."""
    have = first_size(shapes, stem) or 0
    away = {
        name: abs(stem_channels(name) - have)
        for name, config in BACKBONES.items()
        if config.lite == lite
    }
    return [name for name, distance in away.items() if distance == min(away.values())]


def likely_models(shapes: Shapes, stem: str, width: str, *, lite: bool) -> list[ModelConfig]:
    """The models with the first convolution of the file, tensor ``stem``, or the nearest to it.

    Of these those with the pyramid of the file, whose channels tensor ``width`` shows, if any.
    """
    backbones = likely_backbones(shapes, stem, lite=lite)
    rows = [row for row in MODELS.values() if row.backbone in backbones]
    return [row for row in rows if row.width == first_size(shapes, width)] or rows


def outputs_per_anchor(shapes: Shapes, classes: str, boxes: str) -> int:
    """Class channels an anchor, from those of tensors ``classes`` and ``boxes``; at least 1."""
    anchors = max(1, (first_size(shapes, boxes) or 0) // 4)
    return max(1, (first_size(shapes, classes) or 0) // anchors)


def swap_xy(value: Tensor) -> Tensor:
    """Box channels ``[A * 4, ...]`` from (tx, ty, tw, th) to (ty, tx, th, tw), or back."""
    return value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)
