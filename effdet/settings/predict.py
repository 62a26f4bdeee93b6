# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet predict``."""

import math
from dataclasses import dataclass

from effdet.errors import UsageError
from effdet.flags import option
from effdet.settings import shared_help
from effdet.settings.postprocess import FOR_PEOPLE, POSTPROCESS_GROUP, PostprocessConfig
from effdet.settings.values import MAX_PIXELS, NMS, Save, require, require_pixels, require_tiles


@dataclass(frozen=True, kw_only=True)
class PredictConfig(PostprocessConfig):
    """Settings of ``effdet predict``: fewer and surer boxes than validation wants."""

    source: tuple[str, ...] = option(
        help="images, folders, globs, .txt lists, https addresses, videos, rtsp streams, webcam:0",
        positional=True,
    )
    weights: str = option(metavar="FILE", help="weights of the detector: a file, or a public name")
    output: str = option(metavar="DIR", help="folder to create for what is found")
    save: tuple[Save, ...] = option(
        ("pictures", "json"), help="what to write: pictures json coco csv yolo crops"
    )
    annotations: str | None = option(
        None, metavar="FILE", help="COCO file with the ids of the images, for --save coco"
    )
    yolo_scores: bool = option(False, help="end each line of --save yolo with the score")
    classes: tuple[str, ...] = option(
        (), metavar="NAME", help="names of the only classes to find (default: all)"
    )
    tta: bool = option(False, help="look at each image mirrored, smaller and larger too: six looks")
    tile: int = option(0, help="look at tiles of so many pixels a side besides the image, 0: none")
    tile_overlap: float | None = option(
        None, help="share of a tile that the next one shows again, 0-0.9 (default: 0.2)"
    )
    every: int = option(1, help="of a video only each so many-th frame")
    max_frames: int = option(0, help="frames of a video at most, 0: all")
    seconds: float = option(0.0, help="seconds of a video at most, 0: all")
    use_ema: bool = option(True, help="use the averaged weights where the file has them")
    trust_code: bool = option(False, help=shared_help.TRUST_CODE)
    batch_size: int = option(8, help="images that go through the model at once")
    workers: int | None = option(None, help="threads that decode ahead (default: by CPUs)")
    max_pixels: int = option(MAX_PIXELS, help=shared_help.PIXELS)
    device: str | None = option(None, help=shared_help.DEVICE)
    nms: NMS = option(
        FOR_PEOPLE.nms,
        help="suppression of overlapping boxes of one class",
        group=POSTPROCESS_GROUP,
    )
    score_threshold: float = option(
        FOR_PEOPLE.score_threshold, help="detections scored at or below this are left out"
    )
    clip_boxes: bool = option(FOR_PEOPLE.clip_boxes, help="clip boxes to the image")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("batch_size", "every"), lambda v: v > 0, "above 0")
        require(self, ("max_frames",), lambda v: v >= 0, "at least 0")
        require(self, ("seconds",), lambda v: 0 <= v < math.inf, "at least 0 and finite")
        require_pixels(self.max_pixels)
        require_tiles(self.tile, self.tile_overlap or 0.0)
        if self.workers is not None:
            require(self, ("workers",), lambda v: 0 <= v <= 64, "in [0, 64]")
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        """Refuse options that are about an output or a way to look that is not wanted."""
        for is_given, needed, flags in (
            (self.annotations is not None, "coco" in self.save, "--annotations needs --save coco"),
            (self.yolo_scores, "yolo" in self.save, "--yolo-scores needs --save yolo"),
            (self.tile_overlap is not None, self.tile > 0, "--tile-overlap needs --tile"),
        ):
            if is_given and not needed:
                raise UsageError(flags)
