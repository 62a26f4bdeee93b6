# SPDX-License-Identifier: Apache-2.0
"""Choices of the settings, and checks that several of them share."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from effdet.errors import SettingError, UsageError
from effdet.flags import as_flag, flag_name, is_asked

AmpDtype = Literal["float16", "bfloat16"]
NMS = Literal["gaussian", "linear", "hard"]
Schedule = Literal["cosine", "automl", "nvidia", "step", "polynomial", "constant"]
Optimizer = Literal["sgd", "adamw"]
Evaluator = Literal["faster", "pycocotools"]
Normalizer = Literal["global", "process"]
WeightsToValidate = Literal["both", "ema", "raw"]
Console = Literal["auto", "lines", "dllogger"]
Save = Literal["pictures", "json", "coco", "csv", "yolo", "crops"]
Sink = Literal["tensorboard", "wandb", "mlflow"]

MAX_PIXELS = 50_000_000
"""Pixels of an image that is decoded; a few hundred bytes can promise any number of them."""

MOST_PIXELS = 178_956_970
"""Pixels that Pillow decodes at most, as it is set up."""


def require(settings: Any, names: Iterable[str], holds: Callable[[float], bool], text: str) -> None:
    """Refuse the first field of ``names`` that ``holds`` is not true of.

    Raises:
        SettingError: saying that it must be ``text``.
    """
    for name in names:
        if not holds(getattr(settings, name)):
            raise SettingError(name, f"must be {text}, got {getattr(settings, name)}")


def refuse_changed(settings: Any, names: Iterable[str], why: str) -> None:
    """Refuse options that have no effect.

    Args:
        settings: a dataclass of :func:`~effdet.flags.option` fields.
        names: fields that nobody may have asked for; each has a default.
        why: such as ``without --detections``.

    Raises:
        UsageError: naming the first that somebody asked for.
    """
    names = set(names)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in names and is_asked(settings, field.name):
            is_switch = isinstance(value, bool)
            flag = as_flag(field.name, value) if is_switch else flag_name(field.name)
            raise UsageError(f"{flag} does nothing {why}; leave it out")


def require_pixels(max_pixels: int) -> None:
    """Refuse a limit that nothing or everything would be beyond."""
    if not 0 < max_pixels <= MOST_PIXELS:
        raise SettingError("max_pixels", f"must be in [1, {MOST_PIXELS}], got {max_pixels}")


def require_tiles(tile: int, overlap: float) -> None:
    """Refuse tiles that cannot be laid: ``tile`` pixels a side, 0 for none; see inference."""
    if tile != 0 and tile < 32:
        raise SettingError("tile", f"must be at least 32 pixels, or 0 for none, got {tile}")
    if not 0 <= overlap <= 0.9:
        raise SettingError("tile_overlap", f"must be in [0, 0.9], got {overlap:g}")


def require_input(
    mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
) -> None:
    """Refuse a normalisation that would divide by 0 or make what is not finite."""
    for value in std or ():
        if not 0 < value < math.inf:
            raise SettingError("std", f"must be above 0, got {value:g}")
    for value in mean or ():
        if not math.isfinite(value):
            raise SettingError("mean", f"must be finite, got {value:g}")


def require_amp(amp: bool, dtype: AmpDtype | None) -> None:
    """Refuse a precision that would be without effect."""
    if dtype is not None and not amp:
        raise UsageError(f"--amp-dtype {dtype} needs --amp")
