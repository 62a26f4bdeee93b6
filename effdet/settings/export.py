# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet export``."""

from dataclasses import dataclass
from typing import Literal

from effdet.errors import ExportError, UsageError
from effdet.flags import option
from effdet.settings.postprocess import PostprocessConfig
from effdet.settings.values import NMS, refuse_changed, require

ExportFormat = Literal["onnx", "openvino", "torch-export", "aoti"]

TENSORRT_TOP_K = 3840
"""The most that TensorRT's TopK gives; a graph that asks for more does not build there."""

INSIDE = (
    "nms", "iou_threshold", "score_threshold", "max_candidates", "max_detections", "max_per_class",
    "class_agnostic",
)  # fmt: skip
"""Settings of the post-processing that ``--detections`` puts into a file."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of ``effdet export``."""

    weights: str = option(help="weights of the detector: a file, or a public name", positional=True)
    format: ExportFormat = option(
        "onnx",
        help="kind of file to write; TensorRT takes onnx",
        instead=dict.fromkeys(
            ("tensorrt", "trt"),
            "TensorRT builds its engine from an ONNX file: --format onnx, then docs/export.md",
        ),
    )
    output: str | None = option(
        None, metavar="FILE", help="file to write (default: as the weights, with another ending)"
    )
    force: bool = option(False, help="replace the file if it is there already")
    detections: bool = option(
        False, help="put the post-processing inside (onnx, openvino): hard NMS of each class"
    )
    image_size: tuple[int, ...] | None = option(
        None, help="input pixels, fixed in the file: side, or height width (default: the model's)"
    )
    batch: int | Literal["dynamic"] = option("dynamic", help="images a call: any number, or this")
    opset: int = option(18, help="version of ONNX's operators, 18-23")
    use_ema: bool = option(True, help="take the averaged weights where the file has them")
    check_images: str | None = option(
        None,
        metavar="IMAGES",
        help="folder or pattern of images to check the file on (default: those that the run was "
        "validated on; drawn ones for weights outside of a run)",
    )
    check_count: int = option(8, help="images that the file is checked on")
    box_tolerance: float = option(0.1, help="most that a box may differ, network pixels")
    score_tolerance: float = option(0.001, help="most that a score may differ, 0-1")
    nms: NMS = option("hard", help="with --detections: only hard can be put into a file")
    iou_threshold: float = option(0.5, help="with --detections: IoU above which NMS acts, 0-1")
    score_threshold: float = option(
        0.05, help="with --detections: those scored at or below it are left out"
    )
    max_candidates: int = option(
        TENSORRT_TOP_K,
        help="with --detections: (anchor, class) pairs an image that enter NMS; TensorRT's limit",
    )
    max_detections: int = option(100, help="with --detections: rows an image, used or not")
    max_per_class: int = option(0, help="with --detections: of one class at most, 0: no limit")
    class_agnostic: bool = option(
        False, help="with --detections: NMS between boxes of different classes too"
    )

    def __post_init__(self) -> None:
        if self.batch != "dynamic":
            require(self, ("batch",), lambda v: 1 <= v <= 4096, "dynamic or in [1, 4096]")
        require(self, ("opset",), lambda v: 18 <= v <= 23, "in [18, 23]")
        require(self, ("check_count",), lambda v: v > 0, "above 0")
        require(self, ("box_tolerance", "score_tolerance"), lambda v: v > 0, "above 0")
        if self.format in ("torch-export", "aoti"):
            refuse_changed(
                self, ("detections",), f"with --format {self.format}: only onnx and openvino"
            )
            refuse_changed(self, ("opset",), f"with --format {self.format}")
        if not self.detections:
            refuse_changed(self, INSIDE, "without --detections")
        if self.nms != "hard":
            raise ExportError(
                f"--nms {self.nms} cannot be put into a file: ONNX knows hard NMS only; export "
                "with --nms hard, or without --detections and let `effdet predict` or "
                f"`validate.py --nms {self.nms}` do the rest"
            )
        if self.class_agnostic and self.max_per_class:
            raise UsageError("--max-per-class does nothing with --class-agnostic; leave one out")
        self.postprocess()  # refuses what cannot be

    def postprocess(self) -> PostprocessConfig:
        """What is put inside with ``--detections``."""
        return PostprocessConfig(**{name: getattr(self, name) for name in INSIDE})
