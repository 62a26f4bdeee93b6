# SPDX-License-Identifier: Apache-2.0
"""What travels inside an exported file: all that is needed to use it, as one JSON text."""

import dataclasses
import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from effdet.checks import check_choice, check_number, check_text
from effdet.config import ModelConfig
from effdet.errors import EffdetError, WeightsError, one_line, printable
from effdet.flags import as_flag, checked_values
from effdet.settings import PostprocessConfig
from effdet.settings.export import INSIDE
from effdet.structures import ClassMap

KEY = "effdet"
"""Under this name the text stands in ONNX's metadata_props and OpenVINO's rt_info."""

FILE_NAME = "effdet.json"
"""The name of the text as an extra file of a ``.pt2``."""

MAX_TEXT = 16_000_000
"""Characters; 65,536 long class names fit."""

_FORMAT, _VERSION = "effdet-export", 1

Outputs = Literal["raw", "detections"]

INPUT = "images"
OUTPUTS: dict[Outputs, tuple[str, ...]] = {
    "raw": ("cls_logits", "boxes"),
    "detections": ("boxes", "scores", "labels", "counts"),
}
"""Names of the input and of the outputs, in their order."""


def _version() -> str:
    # Imported with the others, it would be a circle to mypy, which reads the package's lazy names.
    return str(importlib.import_module("effdet").__version__)


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What an exported file is and how it is used.

    Attributes:
        model_config: the model, with the image size that the file takes.
        class_map: what its class outputs mean.
        outputs: ``raw`` or ``detections``.
        batch: images a call; None for any number.
        postprocess: what is inside, or for raw outputs what is suggested.
        weights: name of the weights file, or of the public release.
        weights_sha256: of that file, in hex; empty where it has several parts.
        licence: of the weights, empty where not known.
        origin: where the weights came from, empty where not known.
        toolkit: version that wrote the file.
    """

    model_config: ModelConfig
    class_map: ClassMap
    outputs: Outputs
    batch: int | None
    postprocess: PostprocessConfig
    weights: str
    weights_sha256: str
    licence: str = ""
    origin: str = ""
    toolkit: str = dataclasses.field(default_factory=_version)

    def __post_init__(self) -> None:
        check_choice("outputs", self.outputs, list(OUTPUTS))
        if self.batch is not None:
            check_number("batch", self.batch, 1, 4096, whole=True)
        if len(self.class_map) != self.model_config.num_classes:
            raise WeightsError(
                f"{len(self.class_map)} classes for {self.model_config.num_classes} outputs"
            )
        for name in ("weights", "licence", "origin", "toolkit"):
            check_text(name, getattr(self, name), 10_000)
        if not re.fullmatch("([0-9a-f]{64})?", self.weights_sha256):
            raise WeightsError("weights_sha256 must be 64 hexadecimal digits")

    def to_text(self) -> str:
        """The text; ``input`` in it is for programs that know nothing of this toolkit."""
        config = self.model_config
        values = {
            "format": _FORMAT,
            "version": _VERSION,
            "input": {
                "name": INPUT,
                "shape": [self.batch, 3, *config.image_size],
                "layout": "NCHW, RGB, float32: (value in 0-255 - mean) / std",
                "mean": list(config.mean),
                "std": list(config.std),
                "letterbox": "scale = min(height / image height, width / image width); bilinear "
                "resize to the integer parts of the scaled size, half-pixel centres, no antialias; "
                "placed at the top left; 0 after normalisation to the right and below",
            },
            "output_names": list(OUTPUTS[self.outputs]),
        }
        own = dataclasses.asdict(self) | {
            "model_config": config.to_dict(),
            "class_map": self.class_map.to_dict(),
        }
        return json.dumps(values | own)

    @classmethod
    def from_text(cls, text: str, source: object) -> "ExportInfo":
        """The inverse of :meth:`to_text`, for the text of a file of anybody.

        Raises:
            WeightsError: naming ``source`` and what cannot be.
        """
        name = printable(str(source))
        try:
            return cls(**_fields(_parse(text), name))
        except (TypeError, LookupError, ValueError) as error:
            if isinstance(error, WeightsError) and name in str(error):
                raise
            reason = one_line(error) if isinstance(error, EffdetError) else type(error).__name__
            raise WeightsError(f"{name}: what it says of itself cannot be: {reason}") from error

    @property
    def has_detections(self) -> bool:
        """Whether the post-processing is inside."""
        return self.outputs == "detections"

    @property
    def inside(self) -> str:
        """The post-processing that is inside, as options; empty where there is none."""
        if not self.has_detections:
            return ""
        return " ".join(as_flag(name, getattr(self.postprocess, name)) for name in INSIDE)


def _parse(text: str) -> Mapping[str, Any]:
    if len(text) > MAX_TEXT:
        raise WeightsError(f"a text of {len(text):,} characters; at most {MAX_TEXT:,} are read")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError("not a JSON text") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise WeightsError(f"not of format {_FORMAT}")
    if values.get("version") != _VERSION:
        raise WeightsError("from a later version of this toolkit; upgrade it")
    return values


def _fields(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(ExportInfo)]
    missing = [name for name in names if name not in values]
    if missing:
        raise WeightsError(f"{', '.join(missing)} missing")
    readers: dict[str, Callable[[Any], object]] = {
        "model_config": ModelConfig.from_dict,
        "class_map": ClassMap.from_dict,
        "postprocess": lambda settings: _postprocess(settings, source),
    }
    fields = {name: values[name] for name in names}
    for name, read in readers.items():
        try:
            fields[name] = read(values[name])
        except (AttributeError, TypeError, LookupError) as error:
            raise WeightsError(f"{name} has missing or wrong entries: {one_line(error)}") from error
    return fields


def _postprocess(values: Mapping[str, Any], source: str) -> PostprocessConfig:
    names = {field.name for field in dataclasses.fields(PostprocessConfig)}
    if set(values) != names:
        raise WeightsError("postprocess must have exactly the fields of this version")
    return PostprocessConfig(**checked_values(PostprocessConfig, values, source))


def shapes_of(info: ExportInfo, anchors: int) -> dict[str, tuple[int | str, ...]]:
    """Shape of the input and of each output by name; ``batch`` stands for any number."""
    batch = "batch" if info.batch is None else info.batch
    classes = info.model_config.num_classes
    rows = min(
        info.postprocess.max_detections,
        num_candidates(info, anchors),
    )
    outputs: dict[Outputs, dict[str, tuple[int | str, ...]]] = {
        "raw": {"cls_logits": (batch, anchors, classes), "boxes": (batch, anchors, 4)},
        "detections": {
            "boxes": (batch, rows, 4),
            "scores": (batch, rows),
            "labels": (batch, rows),
            "counts": (batch,),
        },
    }
    return {INPUT: (batch, 3, *info.model_config.image_size), **outputs[info.outputs]}


def num_candidates(info: ExportInfo, anchors: int) -> int:
    """(anchor, class) pairs that enter NMS."""
    most = info.postprocess.max_candidates
    return min(most, min(most, anchors) * len(info.class_map.named))
