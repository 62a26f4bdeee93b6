# SPDX-License-Identifier: Apache-2.0
"""Exported files in the place of a model: what comes out of them goes on as usual."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdet.anchors import build_anchors
from effdet.boxes import clip_boxes, encode_boxes
from effdet.errors import UsageError, WeightsError, one_line
from effdet.export.info import ExportInfo, shapes_of
from effdet.export.kinds import kind_of
from effdet.export.onnx_file import Runner
from effdet.flags import as_flag
from effdet.levels import as_one_level
from effdet.postprocess import Postprocess, Postprocessing
from effdet.settings import PostprocessConfig
from effdet.structures import ClassMap, Detections, Target

Levels = list[Tensor]


def open_exported(
    weights: str | Path, *, trust_code: bool = False, device: torch.device | str | None = None
) -> "ExportedNetwork":
    """An exported file, ready to run on the CPU.

    Args:
        weights: a file that ``effdet export`` wrote; its name ends as the one of such a file.
        trust_code: run a ``.pt2``, which is code.
        device: where it is wanted.

    Raises:
        WeightsError: where the file is missing, damaged or of another program.
        UsageError: for a ``.pt2`` that is not trusted, or another device.
        ExportError: where a package is missing.
    """
    path = Path(weights)
    check_device(path, device)
    return ExportedNetwork(*kind_of(path).run(path, trust_code), path)


def check_device(path: Path, device: torch.device | str | None) -> None:
    """Refuse to run an exported file elsewhere than on the CPU.

    Raises:
        UsageError: naming the device.
    """
    if device is not None and str(device) not in ("cpu", "cpu:0"):
        raise UsageError(f"{path}: exported files run on the CPU here; leave out --device {device}")


class ExportedNetwork(nn.Module):
    """Stands where an EfficientDet would: images in, what :meth:`build_postprocess` takes out.

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

    def forward(self, images: Tensor) -> tuple[Levels, Levels] | tuple[Tensor, ...]:
        """Normalised images ``[B, 3, H, W]`` on any device; the results are on the CPU.

        Returns:
            Of a raw file ``(cls_logits, box_deltas)``, one level each, as an EfficientDet; of a
            file with its post-processing inside its :meth:`outputs`.

        Raises:
            UsageError: for images of another size than the file takes.
        """
        outputs = self.outputs(images)
        if self.info.has_detections:
            return outputs
        cls_logits, boxes = outputs
        return as_one_level(cls_logits), as_one_level(encode_boxes(boxes, self.anchors))

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

    def settle(self, default: PostprocessConfig, asked: Mapping[str, Any]) -> PostprocessConfig:
        """How detections are made where ``asked`` is wanted, and for the rest ``default``.

        Of the detections of a file with its post-processing inside there can only be fewer and
        surer ones, with clipped boxes; where a default wants more, the file is followed.

        Args:
            default: what nobody has asked for.
            asked: fields of :class:`PostprocessConfig` that somebody has asked for.

        Raises:
            UsageError: naming what was asked for and cannot be had.
        """
        wanted, inside = dataclasses.replace(default, **asked), self.info.postprocess
        if not self.info.has_detections:
            return wanted
        settled = dataclasses.replace(
            inside,
            score_threshold=max(wanted.score_threshold, inside.score_threshold),
            max_detections=min(wanted.max_detections, inside.max_detections),
            clip_boxes=wanted.clip_boxes,
        )
        for name, value in asked.items():
            has = getattr(settled, name)
            if has != value:
                so = "" if name in ("nms", "sigma") else "so, or "
                raise UsageError(
                    f"{self.path}: has its post-processing inside, with {as_flag(name, has)}; for "
                    f"{as_flag(name, value)} export it {so}without --detections"
                )
        return settled

    def build_postprocess(
        self, config: PostprocessConfig, class_map: ClassMap | None = None
    ) -> Postprocessing:
        """What makes detections of this file's outputs.

        Args:
            config: what :meth:`settle` gives.
            class_map: of what is wanted; None for the file's.
        """
        class_map = class_map or self.info.class_map
        if self.info.has_detections:
            return FileDetections(config=config, class_map=class_map)
        return Postprocess(anchors=self.anchors, config=config, class_map=class_map)


@dataclass(frozen=True, kw_only=True, eq=False)
class FileDetections:
    """Brings the detections that a file gives back to the pixels of the original images.

    Attributes:
        config: threshold, limit and clipping that come after the file's own.
        class_map: the classes that are wanted.
    """

    config: PostprocessConfig
    class_map: ClassMap

    def __call__(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        counts: Tensor,
        targets: Sequence[Target],
    ) -> list[Detections]:
        """Detections of each image, best first.

        Args:
            boxes: ``[B, D, 4]`` in pixels of the network's input.
            scores: ``[B, D]``, falling.
            labels: ``[B, D]``.
            counts: ``[B]``, how many of the D rows are used.
            targets: one an image; only ``scale`` and ``size`` are read.
        """
        rows = zip(boxes, scores, labels, counts.tolist(), targets, strict=True)
        return [
            self._finish(Detections(boxes=b[:n] / t.scale, scores=s[:n], labels=k[:n]), t.size)
            for b, s, k, n, t in rows
        ]

    def _finish(self, found: Detections, size: tuple[int, int]) -> Detections:
        wanted = torch.isin(found.labels, found.labels.new_tensor(self.class_map.named))
        keep = (found.scores > self.config.score_threshold) & wanted
        boxes = found.boxes
        if self.config.clip_boxes:
            boxes = clip_boxes(boxes, size)
            keep &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        found = Detections(boxes=boxes, scores=found.scores, labels=found.labels)
        return found[keep][: self.config.max_detections]
