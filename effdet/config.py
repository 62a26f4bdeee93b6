# SPDX-License-Identifier: Apache-2.0
"""Every model of the family as one table.

Columns are those of table 1 of the EfficientDet paper (arXiv:1911.09070); the values of the
released models come from google/automl's ``hparams_config.py``.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from effdet.checks import (
    check_choice,
    check_image_size,
    check_normalization,
    check_number,
    check_numbers,
    check_text,
)
from effdet.errors import SettingError, UsageError, nearest

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
LITE_MEAN, LITE_STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
HALF = (127.5, 127.5, 127.5)
"""Mean and deviation that bring 0-255 to [-1, 1], as Inception, AdvProp and timm's Lite have it."""

MIN_IMAGE_SIZE = 64
"""Pixels; below this the coarser levels see nothing but padding."""

MAX_IMAGE_SIZE = 2**14
"""Pixels; above this a number is a slip, which would show as a lack of memory at best."""

MAX_PIXELS = 2**24
"""Of one network input, 4096 x 4096."""

MAX_ANCHORS = 2**22
"""Of one image; the largest model of the table has a ninth of that."""

MAX_CLASSES = 2**16

BN_EPS = 1e-3
"""What the reference's batch norms add to a variance."""

MAX_LEVEL = 10

_LARGEST = {"width": 1024, "bifpn_cells": 32, "head_repeats": 32, "num_scales": 16}
"""More than any model of use has: a file may say what it likes."""

Padding = Literal["same", "symmetric"]
Fusion = Literal["fastattn", "sum", "attn"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Scaling of an EfficientNet (arXiv:1905.11946); Lite has ReLU6, no SE, fixed stem and head."""

    name: str
    width: float
    depth: float
    dropout: float
    lite: bool = False


# fmt: off
BACKBONES: dict[str, BackboneConfig] = {
    name: BackboneConfig(name=name, width=width, depth=depth, dropout=dropout, lite="lite" in name)
    for name, width, depth, dropout in [
        ("efficientnet_b0",    1.0, 1.0, 0.2),
        ("efficientnet_b1",    1.0, 1.1, 0.2),
        ("efficientnet_b2",    1.1, 1.2, 0.3),
        ("efficientnet_b3",    1.2, 1.4, 0.3),
        ("efficientnet_b4",    1.4, 1.8, 0.4),
        ("efficientnet_b5",    1.6, 2.2, 0.4),
        ("efficientnet_b6",    1.8, 2.6, 0.5),
        ("efficientnet_b7",    2.0, 3.1, 0.5),
        ("efficientnet_lite0", 1.0, 1.0, 0.2),
        ("efficientnet_lite1", 1.0, 1.1, 0.2),
        ("efficientnet_lite2", 1.1, 1.2, 0.3),
        ("efficientnet_lite3", 1.2, 1.4, 0.3),
        ("efficientnet_lite4", 1.4, 1.8, 0.3),
    ]
}
# fmt: on


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that fixes a detector's graph, its input and its anchors.

    Attributes:
        name: the row of :data:`MODELS` it started from.
        backbone: the row of :data:`BACKBONES`.
        image_size: ``(height, width)`` of the network input in pixels.
        num_classes: class outputs an anchor.
        width: channels of BiFPN and heads.
        bifpn_cells: repeated BiFPN cells.
        head_repeats: convolutions in each head before its last.
        fusion: how a BiFPN node adds its inputs: fast normalised, plain sum or softmax attention.
        anchor_scale: side of the smallest square anchor in strides.
        min_level: finest pyramid level.
        max_level: coarsest pyramid level.
        num_scales: anchor sizes an octave.
        aspect_ratios: anchor width / height.
        padding: ``same`` as TensorFlow, ``symmetric`` as PyTorch; the latter also leaves out the
            convolution biases that a batch norm makes redundant.
        backbone_padding: of the backbone alone; None for ``padding``.
        backbone_bn_eps: what the backbone's batch norms add to a variance; None for 1e-3 with
            ``same`` padding and 1e-5 with ``symmetric``, as published weights of each have it.
        survival_prob: chance that the backbone's last residual block is kept in training.
        mean: subtracted from RGB values in 0-255.
        std: divides the RGB values after that.
    """

    name: str
    backbone: str
    image_size: tuple[int, int]
    num_classes: int = 90
    width: int
    bifpn_cells: int
    head_repeats: int
    fusion: Fusion
    anchor_scale: float
    min_level: int = 3
    max_level: int = 7
    num_scales: int = 3
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    padding: Padding = "same"
    backbone_padding: Padding | None = None
    backbone_bn_eps: float | None = None
    survival_prob: float = 0.8
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        check_text("name", self.name, 200)
        check_choice("backbone", self.backbone, list(BACKBONES))
        check_image_size(self.image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, MAX_PIXELS)
        check_number("num_classes", self.num_classes, 1, MAX_CLASSES, whole=True)
        for name, most in _LARGEST.items():
            check_number(name, getattr(self, name), 1, most, whole=True)
        check_choice("fusion", self.fusion, get_args(Fusion))
        check_number("anchor_scale", self.anchor_scale, 0, 100, above=True)
        check_numbers("aspect_ratios", self.aspect_ratios, 0.01, 100, range(1, 17))
        check_choice("padding", self.padding, get_args(Padding))
        if self.backbone_padding is not None:
            check_choice("backbone_padding", self.backbone_padding, get_args(Padding))
        if self.backbone_bn_eps is not None:
            check_number("backbone_bn_eps", self.backbone_bn_eps, 0, 0.5, above=True)
        check_number("survival_prob", self.survival_prob, 0, 1, above=True)
        check_normalization(self.mean, self.std)
        self._check_levels()

    def _check_levels(self) -> None:
        for name in ("min_level", "max_level"):
            check_number(name, getattr(self, name), 1, MAX_LEVEL, whole=True)
        if not self.min_level <= 5 <= self.max_level:
            raise UsageError(
                "min_level must be in 1 to 5 and max_level at least 5, got "
                f"{self.min_level} and {self.max_level}"
            )
        cells = sum(
            math.prod(-(-side // 2**level) for side in self.image_size) for level in self.levels
        )
        if cells * self.anchors_per_location > MAX_ANCHORS:
            raise UsageError(
                f"a model has at most {MAX_ANCHORS:,} anchors, got "
                f"{cells * self.anchors_per_location:,}: take a smaller image_size"
            )

    @property
    def anchors_per_location(self) -> int:
        """Octaves times aspect ratios."""
        return self.num_scales * len(self.aspect_ratios)

    @property
    def backbone_eps(self) -> float:
        """What the backbone's batch norms add to a variance."""
        if self.backbone_bn_eps is not None:
            return self.backbone_bn_eps
        return BN_EPS if (self.backbone_padding or self.padding) == "same" else 1e-5

    @property
    def lite(self) -> bool:
        """Whether this is a Lite model (ReLU6, no squeeze-and-excitation)."""
        return BACKBONES[self.backbone].lite

    @property
    def levels(self) -> range:
        """The pyramid levels, finest first."""
        return range(self.min_level, self.max_level + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of :meth:`to_dict`."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything that fixes an ImageNet classifier's graph and input.

    Attributes:
        backbone: the row of :data:`BACKBONES`.
        num_classes: outputs; None for a backbone without its head.
        padding: ``same`` as TensorFlow, ``symmetric`` as PyTorch.
        bn_eps: what batch norms add to a variance.
        mean: subtracted from RGB values in 0-255.
        std: divides the RGB values after that.
    """

    backbone: str
    num_classes: int | None = 1000
    padding: Padding = "same"
    bn_eps: float = BN_EPS
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_choice("backbone", self.backbone, list(BACKBONES))
        if self.num_classes is not None:
            check_number("num_classes", self.num_classes, 1, MAX_CLASSES, whole=True)
        check_choice("padding", self.padding, get_args(Padding))
        check_number("bn_eps", self.bn_eps, 0, 0.5, above=True)
        check_normalization(self.mean, self.std)

    @property
    def name(self) -> str:
        """A classifier is called by its backbone."""
        return self.backbone


# fmt: off
_COLUMNS = (
    "name",               "backbone",           "image_size", "width", "bifpn_cells",
    "head_repeats", "fusion", "anchor_scale", "max_level",
)
_ROWS: list[tuple[Any, ...]] = [
    ("efficientdet_d0",     "efficientnet_b0",     512,  64, 3, 3, "fastattn", 4.0, 7),
    ("efficientdet_d1",     "efficientnet_b1",     640,  88, 4, 3, "fastattn", 4.0, 7),
    ("efficientdet_d2",     "efficientnet_b2",     768, 112, 5, 3, "fastattn", 4.0, 7),
    ("efficientdet_d3",     "efficientnet_b3",     896, 160, 6, 4, "fastattn", 4.0, 7),
    ("efficientdet_d4",     "efficientnet_b4",    1024, 224, 7, 4, "fastattn", 4.0, 7),
    ("efficientdet_d5",     "efficientnet_b5",    1280, 288, 7, 4, "fastattn", 4.0, 7),
    ("efficientdet_d6",     "efficientnet_b6",    1280, 384, 8, 5, "sum",      4.0, 7),
    ("efficientdet_d7",     "efficientnet_b6",    1536, 384, 8, 5, "sum",      5.0, 7),
    ("efficientdet_d7x",    "efficientnet_b7",    1536, 384, 8, 5, "sum",      4.0, 8),
    ("efficientdet_lite0",  "efficientnet_lite0",  320,  64, 3, 3, "sum",      3.0, 7),
    ("efficientdet_lite1",  "efficientnet_lite1",  384,  88, 4, 3, "sum",      3.0, 7),
    ("efficientdet_lite2",  "efficientnet_lite2",  448, 112, 5, 3, "sum",      3.0, 7),
    ("efficientdet_lite3",  "efficientnet_lite3",  512, 160, 6, 4, "sum",      4.0, 7),
    ("efficientdet_lite3x", "efficientnet_lite3",  640, 200, 6, 4, "sum",      3.0, 7),
    ("efficientdet_lite4",  "efficientnet_lite4",  640, 224, 7, 4, "sum",      4.0, 7),
]
# fmt: on


def _row_to_config(row: tuple[Any, ...]) -> ModelConfig:
    values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    lite = "lite" in values["name"]
    values["image_size"] = (values["image_size"], values["image_size"])
    return ModelConfig(
        mean=LITE_MEAN if lite else IMAGENET_MEAN,
        std=LITE_STD if lite else IMAGENET_STD,
        # The reference switches stochastic depth off for detectors on B0.
        survival_prob=1.0 if values["backbone"].endswith("b0") else 0.8,
        **values,
    )


MODELS: dict[str, ModelConfig] = {row[0]: _row_to_config(row) for row in _ROWS}


def model_config(name: str, **changes: Any) -> ModelConfig:
    """The configuration of model ``name`` with ``changes`` to its fields.

    Raises:
        UsageError: for an unknown name (the nearest are named) or a value that cannot work.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}{nearest(name, MODELS)} (see `effdet info`)")
    return dataclasses.replace(MODELS[name], **changes)


def size_pair(values: tuple[int, ...]) -> tuple[int, int]:
    """``(height, width)`` from one side or from both."""
    if len(values) not in (1, 2):
        raise SettingError("image_size", f"must be one or two numbers, got {len(values)}")
    return values[0], values[-1]
