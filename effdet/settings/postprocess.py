# SPDX-License-Identifier: Apache-2.0
"""Settings of the post-processing, which all programs that detect share."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from effdet.flags import is_asked, option
from effdet.settings.values import NMS, require

POSTPROCESS_GROUP = "from outputs to detections"


@dataclass(frozen=True, kw_only=True)
class PostprocessConfig:
    """From network outputs to detections; the defaults are those of published COCO figures."""

    nms: NMS = option(
        "gaussian", help="suppression of overlapping boxes of one class", group=POSTPROCESS_GROUP
    )
    iou_threshold: float = option(0.5, help="IoU above which hard and linear NMS act, 0-1")
    sigma: float = option(0.5, help="width of gaussian NMS: a score decays by exp(-IoU^2 / sigma)")
    score_threshold: float = option(0.001, help="detections scored at or below this are left out")
    max_candidates: int = option(5000, help="best (anchor, class) pairs an image that enter NMS")
    max_detections: int = option(100, help="detections an image at most")
    max_per_class: int = option(0, help="detections of one class an image at most, 0: no limit")
    class_agnostic: bool = option(False, help="NMS between boxes of different classes too")
    clip_boxes: bool = option(False, help="clip boxes to the image (published figures do not)")

    def __post_init__(self) -> None:
        require(self, ("iou_threshold", "score_threshold"), lambda v: 0 <= v <= 1, "in [0, 1]")
        require(
            self, ("sigma",), lambda v: 2.0**-126 <= v < math.inf, "finite and above 0 in float32"
        )
        require(self, ("max_candidates", "max_detections"), lambda v: v >= 1, "at least 1")
        require(self, ("max_per_class",), lambda v: v >= 0, "at least 0")


FOR_PEOPLE = PostprocessConfig(nms="hard", score_threshold=0.3, clip_boxes=True)
"""For looking at, not for figures: few boxes, each surely meant, all inside the image."""


def asked_postprocess(settings: Any) -> dict[str, Any]:
    """The post-processing fields of a program's settings that somebody asked for."""
    asked = dataclasses.asdict(select_postprocess(settings))
    return {name: value for name, value in asked.items() if is_asked(settings, name)}


def select_postprocess(settings: Any) -> PostprocessConfig:
    """The post-processing fields of a program's settings."""
    names = [field.name for field in dataclasses.fields(PostprocessConfig)]
    return PostprocessConfig(**{name: getattr(settings, name) for name in names})
