# SPDX-License-Identifier: Apache-2.0
"""Exported files in the place of a model: what comes out of them goes on as usual."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from effdet.anchors import build_anchors
from effdet.boxes import encode_boxes
from effdet.errors import UsageError, WeightsError, one_line
from effdet.export.info import ExportInfo, shapes_of
from effdet.export.onnx_file import Runner, onnx_runner
from effdet.export.openvino_file import openvino_runner
from effdet.export.programs import program_runner
from effdet.levels import as_one_level
from effdet.postprocess import Postprocess
from effdet.settings import FOR_PEOPLE, PostprocessConfig
from effdet.structures import ClassMap, Detections, Target

SUFFIXES = (".onnx", ".xml", ".pt2")
"""Ends of the names of exported files."""

Levels = list[Tensor]


def is_exported(weights: str | Path) -> bool:
    """Whether a name is one of an exported file."""
    return Path(weights).suffix.lower() in SUFFIXES


def open_exported(
    weights: str | Path, *, trust_code: bool = False, device: torch.device | str | None = None
) -> "ExportedNetwork":
    """An exported file, ready to run on the CPU.

    Args:
        weights: a file that ``effdet export`` wrote.
        trust_code: run a ``.pt2``, which is code.
        device: where it is wanted.

    Raises:
        WeightsError: where the file is missing, damaged or of another program.
        UsageError: for a ``.pt2`` that is not trusted, or another device.
        ExportError: where a package is missing.
    """
    path = Path(weights)
    if device is not None and torch.device(device).type != "cpu":
        raise UsageError(f"{path}: exported files run on the CPU here; leave out --device {device}")
    if path.suffix.lower() == ".pt2":
        return ExportedNetwork(*program_runner(path, trust_code=trust_code), path)
    if path.suffix.lower() == ".xml":
        return ExportedNetwork(*openvino_runner(path), path)
    return ExportedNetwork(*onnx_runner(path), path)


class ExportedNetwork(nn.Module):
    """Stands where an EfficientDet would: images in, two lists of tensors out.

    Of a raw file they are ``(cls_logits, box_deltas)``, one level each; of a file with the
    post-processing inside what :class:`FileDetections` takes.

    Attributes:
        info: what the file says of itself.
        path: the file.
    """

    anchors: Tensor

    def __init__(self, run: Runner, info: ExportInfo, path: Path) -> None:
        super().__init__()
        self.info, self.path = info, path
        self._run = run
        self.register_buffer("anchors", build_anchors(info.model_config), persistent=False)
        self._shapes = list(shapes_of(info, len(self.anchors)).values())[1:]

    def forward(self, images: Tensor) -> tuple[Levels, Levels]:
        """Normalised images ``[B, 3, H, W]`` on any device; the results are on the CPU.

        Raises:
            UsageError: for images of another size than the file takes.
        """
        outputs = self.outputs(images)
        if self.info.outputs == "raw":
            cls_logits, boxes = outputs
            return as_one_level(cls_logits), as_one_level(encode_boxes(boxes, self.anchors))
        boxes, *rest = outputs
        return rest, [boxes]

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the file itself gives for any number of images."""
        size = self.info.model_config.image_size
        if images.shape[1:] != (3, *size):
            raise UsageError(
                f"{self.path}: takes images of {size[0]} x {size[1]} pixels (height x width), got "
                f"{images.shape[-2]} x {images.shape[-1]}; export it with --image-size"
            )
        images = images.detach().to("cpu", torch.float32).contiguous()
        if not len(images):
            return tuple(self._checked(self._run_padded(images[:0]), 0))
        parts = images.split(self.info.batch or len(images))
        found = [self._checked(self._run_padded(part), len(part)) for part in parts]
        return tuple(torch.cat(values) for values in zip(*found, strict=True))

    def _run_padded(self, images: Tensor) -> Sequence[Tensor]:
        """Run at most as many images as the file takes at once."""
        missing = max((self.info.batch or 1) - len(images), 0)
        if missing:
            images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        try:
            return self._run(images)
        except Exception as error:  # each runtime has kinds of its own
            raise WeightsError(f"{self.path}: cannot be run: {one_line(error)}") from error

    def _checked(self, outputs: Sequence[Tensor], count: int) -> list[Tensor]:
        """The first ``count`` rows, of the shapes that the file promised."""
        for found, expected in zip(outputs, self._shapes, strict=True):
            if found.shape[1:] != expected[1:] or len(found) < count:
                raise WeightsError(
                    f"{self.path}: gave an output {list(found.shape)} where it promised "
                    f"{list(expected)}"
                )
        return [found[:count] for found in outputs]

    def build_postprocess(
        self, config: PostprocessConfig, class_map: ClassMap | None = None
    ) -> Postprocess:
        """What makes detections of this file's outputs.

        Args:
            config: what is wanted.
            class_map: of what is wanted; None for the file's.

        Raises:
            UsageError: for what cannot be had as the file has other post-processing inside.
        """
        class_map = class_map or self.info.class_map
        if self.info.outputs == "raw":
            return Postprocess(anchors=self.anchors, config=config, class_map=class_map)
        inside = _settled(config, self.info.postprocess, self.path)
        return FileDetections(anchors=self.anchors, config=inside, class_map=class_map)


_OUTSIDE = ("clip_boxes", "score_threshold", "max_detections")
"""What can still be done to the detections of a file."""


def _settled(asked: PostprocessConfig, inside: PostprocessConfig, path: Path) -> PostprocessConfig:
    """What the file does, with what is done to it after that.

    A default of a program is not a wish: a file has its own.
    """
    for field in dataclasses.fields(PostprocessConfig):
        name = field.name
        values = [getattr(config, name) for config in (PostprocessConfig(), FOR_PEOPLE, inside)]
        wanted = getattr(asked, name)
        if name not in _OUTSIDE and wanted not in values:
            flag = name.replace("_", "-")
            raise UsageError(
                f"{path}: has its post-processing inside, with --{flag} {values[-1]}; export it "
                f"with --{flag} {wanted}, or without --detections"
            )
    return dataclasses.replace(
        inside,
        clip_boxes=asked.clip_boxes,
        score_threshold=max(asked.score_threshold, inside.score_threshold),
        max_detections=min(asked.max_detections, inside.max_detections),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FileDetections(Postprocess):
    """Brings the detections that a file gives back to the pixels of the original images."""

    def __call__(
        self, cls_logits: Sequence[Tensor], box_deltas: Sequence[Tensor], targets: Sequence[Target]
    ) -> list[Detections]:
        """Detections of each image, best first.

        Args:
            cls_logits: scores ``[B, D]``, labels ``[B, D]`` and counts ``[B]``.
            box_deltas: boxes ``[B, D, 4]`` in pixels of the network's input, in a list.
            targets: one an image; only ``scale`` and ``size`` are read.
        """
        scores, labels, counts = cls_logits
        rows = zip(box_deltas[0], scores, labels, counts.tolist(), targets, strict=True)
        return [
            self._finish(Detections(boxes=b[:n] / t.scale, scores=s[:n], labels=k[:n]), t.size)
            for b, s, k, n, t in rows
        ]

    def _finish(self, found: Detections, size: tuple[int, int]) -> Detections:
        config = self.config
        keep = (found.scores > config.score_threshold) & self._wanted(found.labels)
        boxes = found.boxes
        if config.clip_boxes:
            limits = boxes.new_tensor([size[1], size[0], size[1], size[0]])
            boxes = boxes.clamp(min=0).minimum(limits)
            keep &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        found = Detections(boxes=boxes, scores=found.scores, labels=found.labels)
        return found[keep][: config.max_detections]

    def _wanted(self, labels: Tensor) -> Tensor:
        assert self.class_map is not None
        return torch.isin(labels, labels.new_tensor(self.class_map.named))
