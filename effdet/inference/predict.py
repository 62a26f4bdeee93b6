# SPDX-License-Identifier: Apache-2.0
"""From images to detections."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from effdet.anchors import build_anchors
from effdet.config import ModelConfig
from effdet.data.transforms import letterbox, size_of
from effdet.errors import UsageError, nearest
from effdet.inference.sources import Source, read_image
from effdet.postprocess import Postprocess
from effdet.settings import FOR_PEOPLE, PostprocessConfig
from effdet.structures import ClassMap, Detections, Target

Item = TypeVar("Item")


class Detector:
    """A model with all it needs to find objects in images.

    Attributes:
        model: images ``[B, 3, H, W]`` -> ``(cls_logits, box_deltas)``, in evaluation mode.
        config: size and normalisation of its input, and its anchors.
        class_map: what its classes are called.
        postprocess: how detections are made of its outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        class_map: ClassMap,
        postprocess: PostprocessConfig = FOR_PEOPLE,
    ) -> None:
        """Take ``model`` as it is, on its device, and set it to evaluation mode."""
        self.model = model.eval()
        self.config = config
        self.class_map = class_map
        self.postprocess = postprocess
        self._anchors = build_anchors(config)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> "Detector":
        """Move the model; returns this same detector."""
        self.model.to(device)
        return self

    @overload
    def predict(
        self, source: Source, *, batch_size: int = 8, classes: Sequence[str] = (), **settings: Any
    ) -> Detections: ...

    @overload
    def predict(
        self,
        source: Sequence[Source],
        *,
        batch_size: int = 8,
        classes: Sequence[str] = (),
        **settings: Any,
    ) -> list[Detections]: ...

    def predict(
        self,
        source: Source | Sequence[Source],
        *,
        batch_size: int = 8,
        classes: Sequence[str] = (),
        **settings: Any,
    ) -> Detections | list[Detections]:
        """Detections of one image, or of each in a list.

        Args:
            source: file, Pillow image or ``[3, H, W]`` uint8 RGB tensor; or a list of those.
            batch_size: images that go through the model at once.
            classes: names of the classes that are wanted; all if empty.
            settings: fields of :class:`PostprocessConfig` for this call, such as
                ``score_threshold=0.5`` or ``max_detections=10``.

        Returns:
            Detections on the CPU in pixels of the image, after a file's EXIF rotation.

        Raises:
            DataError: for a file that cannot be decoded.
            UsageError: for an unknown class or setting.
        """
        if isinstance(source, str | Path | Tensor) or not isinstance(source, Sequence):
            return self.predict([source], classes=classes, **settings)[0]
        process = self.build_postprocess(classes, **settings)
        found: list[Detections] = []
        for batch in batches(source, batch_size):
            found += self.detect([read_image(item) for item in batch], process)
        return found

    def build_postprocess(self, classes: Sequence[str] = (), **settings: Any) -> Postprocess:
        """This detector's post-processing with the changes of :meth:`predict`."""
        known = [item.name for item in fields(PostprocessConfig)]
        for name in settings:
            if name not in known:
                raise UsageError(f"unknown setting {name!r}{nearest(name, known)}")
        return Postprocess(
            anchors=self._anchors_on_device(),
            config=replace(self.postprocess, **settings),
            class_map=_only(self.class_map, classes) if classes else self.class_map,
        )

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor], process: Postprocess) -> list[Detections]:
        """Detections of ``[3, H, W]`` uint8 images of any sizes, as one batch, on the CPU."""
        config = self.config
        inputs, targets = [], []
        for image in images:
            pixels, scale = letterbox(image, config.image_size, config.mean, config.std)
            inputs.append(pixels)
            targets.append(_no_boxes(size_of(image), scale))
        batch = torch.stack(inputs).to(self.device, memory_format=torch.channels_last)
        cls_logits, box_deltas = self.model(batch)
        return [found.to("cpu") for found in process(cls_logits, box_deltas, targets)]

    def _anchors_on_device(self) -> Tensor:
        self._anchors = self._anchors.to(self.device)
        return self._anchors


def _only(class_map: ClassMap, names: Sequence[str]) -> ClassMap:
    """The same slots with only the classes called ``names``."""
    wanted = set(class_map.indices(names))
    return ClassMap(
        names=tuple(n if i in wanted else None for i, n in enumerate(class_map.names)),
        category_ids=tuple(
            c if i in wanted else None for i, c in enumerate(class_map.category_ids)
        ),
    )


def _no_boxes(size: tuple[int, int], scale: float) -> Target:
    """What post-processing needs to know of an image without ground truth."""
    return Target(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        crowd=torch.zeros(0, dtype=torch.bool),
        image_id=0,
        scale=scale,
        size=size,
    )


def batches(items: Sequence[Item], batch_size: int) -> list[Sequence[Item]]:
    """``items`` in their order, ``batch_size`` at a time."""
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    return [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
