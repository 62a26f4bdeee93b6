# SPDX-License-Identifier: Apache-2.0
"""The things that travel through the package: targets, batches, detections and the class map."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdet.errors import DataError, UsageError, nearest, shown

BACKGROUND = -1
"""Class target of an anchor that matches no object."""

MAX_NAME = 1000
"""Characters of a class's name."""

IGNORE = -2
"""Class target of an anchor that neither rewards nor punishes (it lies on a crowd region)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """Ground truth of one image.

    Attributes:
        boxes: ``[N, 4]`` float32 xyxy, in pixels of the image it travels with.
        labels: ``[N]`` int64 class indices from 0.
        crowd: ``[N]`` bool, True for regions that hold an uncounted crowd: ignored, never matched.
        image_id: the data set's id of the image.
        scale: pixels of the image it travels with per pixel of the original image.
        size: ``(height, width)`` of the original image.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_id: int
    scale: float
    size: tuple[int, int]

    @classmethod
    def without_boxes(cls, size: tuple[int, int], scale: float = 1.0) -> "Target":
        """Of an image without ground truth, which has ``(height, width)`` ``size``."""
        return cls(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            crowd=torch.zeros(0, dtype=torch.bool),
            image_id=0,
            scale=scale,
            size=size,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Target":
        """The same target with its tensors on ``device``."""
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            crowd=self.crowd.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Network input with its ground truth.

    Attributes:
        images: ``[B, 3, H, W]`` float32, normalised.
        targets: one :class:`Target` an image.
    """

    images: Tensor
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str, channels_last: bool = True) -> "Batch":
        """The same batch on ``device``, the images in the wanted memory format."""
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        images = self.images.to(device, non_blocking=True, memory_format=memory_format)
        return Batch(images=images, targets=[t.to(device, non_blocking=True) for t in self.targets])


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What was found in one image, best first.

    Attributes:
        boxes: ``[N, 4]`` float32 xyxy, in pixels of the original image.
        scores: ``[N]`` float32 in [0, 1], falling.
        labels: ``[N]`` int64 class indices from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def __getitem__(self, index: Any) -> "Detections":
        """The detections that ``index`` (a slice, mask or index tensor) selects."""
        return Detections(
            boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index]
        )

    def to(self, device: torch.device | str) -> "Detections":
        """The same detections on ``device``."""
        return Detections(
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
        )

    def to_arrays(self, class_map: "ClassMap | None" = None) -> dict[str, Any]:
        """NumPy arrays under the names of ``supervision.Detections``: ``Detections(**arrays)``.

        Args:
            class_map: adds the names of the classes.

        Returns:
            ``xyxy`` ``[N, 4]`` float32 in pixels of the original image, ``confidence`` ``[N]``
            float32 in [0, 1], ``class_id`` ``[N]`` int64 from 0, and with a class map ``data``:
            ``{"class_name": [N] text}``.
        """
        arrays: dict[str, Any] = {
            "xyxy": self.boxes.cpu().numpy(),
            "confidence": self.scores.cpu().numpy(),
            "class_id": self.labels.cpu().numpy(),
        }
        if class_map is not None:
            names = [class_map.name(label) for label in self.labels.tolist()]
            arrays["data"] = {"class_name": np.array(names, dtype=str)}
        return arrays

    def to_supervision(self, class_map: "ClassMap | None" = None) -> Any:
        """The same as ``supervision.Detections``, for that package's annotators and trackers.

        Args:
            class_map: adds the names of the classes as ``data["class_name"]``.

        Raises:
            UsageError: where the package ``supervision`` is not installed.
        """
        try:
            supervision = importlib.import_module("supervision")
        except ModuleNotFoundError as error:
            raise UsageError(
                f"to_supervision needs the package {error.name}: pip install supervision; "
                "to_arrays gives the same without it"
            ) from error
        return supervision.Detections(**self.to_arrays(class_map))


@dataclass(frozen=True)
class ClassMap:
    """Contiguous class index <-> name <-> the data set's own category id.

    Attributes:
        names: class name of each index; None for a slot without a class, which is never predicted.
        category_ids: original category id of each index; None exactly where the name is.
    """

    names: tuple[str | None, ...]
    category_ids: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise DataError(
                f"class map: {len(self.names)} names but {len(self.category_ids)} category ids"
            )
        used = [i for i in self.category_ids if i is not None]
        if len(set(used)) != len(used):
            raise DataError("class map: category ids must be unique")
        for name, category_id in zip(self.names, self.category_ids, strict=True):
            if (name is None) != (category_id is None):
                raise DataError(
                    f"class map: name {name!r} and category id {category_id!r} must both be given "
                    "or both be None"
                )
        if not used:
            raise DataError("class map: there must be at least one class")

    @classmethod
    def from_categories(cls, categories: Iterable[Mapping[str, Any]]) -> "ClassMap":
        """Classes in rising order of the ``id`` of COCO ``categories``, each with a ``name``."""
        ordered = sorted(categories, key=lambda category: int(category["id"]))
        return cls(
            names=tuple(str(category["name"]) for category in ordered),
            category_ids=tuple(int(category["id"]) for category in ordered),
        )

    @classmethod
    def from_sparse(cls, categories: Iterable[Mapping[str, Any]], num_classes: int) -> "ClassMap":
        """Slot ``id - 1`` for each category, the rest unnamed.

        This is the layout of the published COCO weights: 90 outputs for 80 categories.
        """
        names: list[str | None] = [None] * num_classes
        ids: list[int | None] = [None] * num_classes
        for category in categories:
            category_id = int(category["id"])
            if not 1 <= category_id <= num_classes:
                raise DataError(
                    f"class map: category id {category_id} has no slot among {num_classes} outputs"
                )
            names[category_id - 1] = str(category["name"])
            ids[category_id - 1] = category_id
        return cls(names=tuple(names), category_ids=tuple(ids))

    def __len__(self) -> int:
        """Number of class outputs, unnamed slots included."""
        return len(self.names)

    @property
    def named(self) -> tuple[int, ...]:
        """The indices that have a class."""
        return tuple(i for i, name in enumerate(self.names) if name is not None)

    @property
    def index_of(self) -> dict[int, int]:
        """Category id -> contiguous index."""
        return {c: i for i, c in enumerate(self.category_ids) if c is not None}

    def name(self, index: int) -> str:
        """Class name of ``index``."""
        name = self.names[index]
        return name if name is not None else f"unnamed {index}"

    def indices(self, names: Sequence[str]) -> list[int]:
        """Indices of the classes called ``names``; unknown ones raise ``ValueError``."""
        known = [name for name in self.names if name is not None]
        for name in names:
            if name not in known:
                raise UsageError(f"unknown class {name!r}{nearest(name, known)}")
        # A data set may use a name twice; both are meant then.
        return [index for wanted in names for index, n in enumerate(self.names) if n == wanted]

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain values for checkpoints and prediction files."""
        return {"names": list(self.names), "category_ids": list(self.category_ids)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[Any]]) -> "ClassMap":
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: for names that are no texts and ids that are no numbers of 64 bits.
            LookupError, TypeError: where one of the two lists is missing.
        """
        names, ids = tuple(values["names"]), tuple(values["category_ids"])
        for name in names:
            if name is not None and (type(name) is not str or len(name) > MAX_NAME):
                raise DataError(f"class map: {shown(name)} is not a name of a class")
        for number in ids:
            if number is not None and (type(number) is not int or abs(number) >= 2**63):
                raise DataError(f"class map: {shown(number)} is not the id of a category")
        return cls(names=names, category_ids=ids)
