# SPDX-License-Identifier: Apache-2.0
"""COCO data sets: finding their files, and images with boxes as samples.

COCO's category ids and ``[x, y, width, height]`` boxes end here; behind this file there are class
indices and xyxy boxes.
"""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.data.coco_file import (
    Rows,
    find_ids,
    read_boxes,
    read_classes,
    read_crowd,
    read_images,
    read_json,
    refuse,
    some,
)
from effdet.data.images import decode_annotated
from effdet.data.shapes import resolve_data
from effdet.errors import DataError
from effdet.structures import ClassMap, Target

CLIP_TOLERANCE = 0.01
"""Pixels. COCO rounds boxes to two decimals, so a smaller overhang is no mistake to be counted."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What an annotation file holds and what was changed in reading it.

    Attributes:
        images: all images, those without boxes included.
        empty_images: images without boxes; they are kept, as background.
        boxes: boxes kept, crowd regions included.
        crowd_boxes: boxes kept that are crowd regions.
        clipped: boxes kept that stuck out of their image and were cut to it.
        dropped_no_area: boxes left out because their width or height is not above 0.
        dropped_outside: boxes left out because they lie wholly outside their image.
        renamed: category ids that have another name here than in the given class map.
    """

    images: int
    empty_images: int
    boxes: int
    crowd_boxes: int
    clipped: int
    dropped_no_area: int
    dropped_outside: int
    renamed: tuple[int, ...] = ()

    @property
    def dropped(self) -> int:
        """Boxes left out, for whatever reason."""
        return self.dropped_no_area + self.dropped_outside

    def __str__(self) -> str:
        text = (
            f"{self.images} images ({self.empty_images} without boxes), {self.boxes} boxes "
            f"({self.crowd_boxes} crowd), {self.clipped} clipped, {self.dropped} dropped"
        )
        if self.dropped:
            text += f" ({self.dropped_no_area} without area, {self.dropped_outside} outside)"
        if self.renamed:
            ids = ", ".join(map(str, self.renamed))
            text += f"; category ids named otherwise than in the class map: {ids}"
        return text


def locate(
    data_dir: str | Path | None,
    split: str,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split.

    Without explicit paths: ``annotations/instances_{split}*.json``, and images in the folder named
    like the rest of that file's name (``instances_train2017.json``: ``train2017/``), in
    ``{split}/`` or in ``images/``.

    Args:
        data_dir: the data folder; may be None where both paths are given.
        split: such as ``train`` or ``val``.
        annotations: explicit annotation file.
        images: explicit image folder.

    Raises:
        DataError: where something is missing or ambiguous: what was looked for, what is there.
    """
    if data_dir is None and (annotations is None or images is None):
        raise DataError("a data folder is needed, or both an annotation file and an image folder")
    folder = Path(data_dir) if data_dir is not None else Path()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such data folder")
    file = Path(annotations) if annotations is not None else _find_annotations(folder, split)
    if not file.is_file():
        raise DataError(f"{file}: no such annotation file")
    image_dir = Path(images) if images is not None else _find_images(folder, split, file)
    if not image_dir.is_dir():
        raise DataError(f"{image_dir}: no such image folder")
    return file, image_dir


def locate_split(
    data: str | Path, split: str, annotations: str | None, images: str | None
) -> tuple[Path, Path]:
    """:func:`locate` for a program's ``--data``, which may name the built-in set.

    That set is drawn only where something of it is needed.
    """
    explicit = annotations is not None and images is not None
    return locate(None if explicit else resolve_data(data), split, annotations, images)


def _find_annotations(folder: Path, split: str) -> Path:
    if not split:
        raise DataError("the split's name is empty; give one such as train or val")
    wanted = folder / "annotations" / f"instances_{glob.escape(split)}*.json"
    exact = folder / "annotations" / f"instances_{split}.json"
    found = sorted(wanted.parent.glob(wanted.name))
    if exact in found:
        return exact
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{wanted}: several files fit ({names}); name the split in full")
    if not found:
        raise DataError(f"{wanted}: no such annotation file; {_contents(wanted.parent)}")
    return found[0]


def _find_images(folder: Path, split: str, annotations: Path) -> Path:
    names = [annotations.stem.removeprefix("instances_"), split, "images"]
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    wanted = ", ".join(f"{name}/" for name in dict.fromkeys(names))
    raise DataError(f"{folder}: no image folder ({wanted}); {_contents(folder)}")


def _contents(folder: Path) -> str:
    """What is in ``folder``, for the end of an error message."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"the folder holds {shown or 'nothing'}"


class CocoDataset:
    """Images of a COCO annotation file with their boxes.

    Everything is held in a few flat arrays: worker processes share their memory with this one,
    and an array, unlike a Python object, is not copied when it is read.

    Attributes:
        annotations: path of the annotation file.
        images: path of the image folder.
        class_map: class index <-> name <-> category id.
        image_ids: ``[N]`` int64, the file's image ids in the file's order.
        report: counts of what was read, clipped and dropped.
    """

    def __init__(
        self, annotations: str | Path, images: str | Path, class_map: ClassMap | None = None
    ) -> None:
        """Read and check an annotation file.

        Args:
            annotations: the file.
            images: the folder that its file names are relative to.
            class_map: the classes of a checkpoint; by default the file's own categories.

        Raises:
            DataError: where the file cannot be read or a value cannot be right, with the file, the
                place in it, the value and the number of such places.
        """
        self.annotations, self.images = Path(annotations), Path(images)
        content = read_json(self.annotations)
        file_map = read_classes(self.annotations, content["categories"])
        self.class_map = class_map if class_map is not None else file_map
        renamed = _check_classes(self.annotations, file_map, self.class_map)
        self.image_ids, self._sizes, self._names = read_images(self.annotations, content["images"])
        rows = content["annotations"]
        image_index = find_ids(self.annotations, rows, "image_id", self.image_ids, "images")
        labels = self._read_labels(rows, file_map)
        crowd = read_crowd(self.annotations, rows)
        boxes, keep, counts = _clip(read_boxes(self.annotations, rows), self._sizes[image_index])
        order = np.flatnonzero(keep)[np.argsort(image_index[keep], kind="stable")]
        per_image = np.bincount(image_index[keep], minlength=len(self))
        self._offsets = np.concatenate([[0], np.cumsum(per_image)])
        self._boxes = torch.from_numpy(boxes[order].astype(np.float32))
        self._labels = torch.from_numpy(labels[order])
        self._crowd = torch.from_numpy(crowd[order])
        self.report = DataReport(
            images=len(self),
            empty_images=int((per_image == 0).sum()),
            boxes=len(order),
            crowd_boxes=int(crowd[order].sum()),
            renamed=renamed,
            **counts,
        )
        self._check_files()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def load(self, index: int) -> tuple[Tensor, Target]:
        """The image at ``index`` as ``[3, H, W]`` uint8 RGB, and its target in its pixels.

        Raises:
            DataError: where the image cannot be read or has not the recorded size.
        """
        target = self.target(index)
        return decode_annotated(self.path(index), target.size), target

    def path(self, index: int) -> Path:
        """Path of the image file at ``index``."""
        name: bytes = self._names[index]
        return self.images / name.decode()

    def names_of(self, image_ids: Iterable[int]) -> list[str]:
        """File names of images by their ids."""
        index_of = {int(image_id): index for index, image_id in enumerate(self.image_ids)}
        return [self.path(index_of[image_id]).name for image_id in image_ids]

    def target(self, index: int) -> Target:
        """The target at ``index`` without reading its image."""
        start, end = (int(offset) for offset in self._offsets[index : index + 2])
        height, width = (int(side) for side in self._sizes[index])
        return Target(
            boxes=self._boxes[start:end].clone(),
            labels=self._labels[start:end].clone(),
            crowd=self._crowd[start:end].clone(),
            image_id=int(self.image_ids[index]),
            scale=1.0,
            size=(height, width),
        )

    def _read_labels(self, rows: Rows, file_map: ClassMap) -> NDArray[np.int64]:
        known = np.array(file_map.category_ids, dtype=np.int64)
        index_of = self.class_map.index_of
        label_of = np.array([index_of[int(category_id)] for category_id in known], dtype=np.int64)
        labels: NDArray[np.int64] = label_of[
            find_ids(self.annotations, rows, "category_id", known, "categories")
        ]
        return labels

    def _check_files(self) -> None:
        """Refuse to start where image files are missing: better now than hours into a training."""
        folders: dict[Path, set[str]] = {}
        missing = []
        for index in range(len(self)):
            path = self.path(index)
            if path.parent not in folders:
                folders[path.parent] = _file_names(path.parent)
            if path.name not in folders[path.parent] and not path.exists():
                missing.append(path.name)
        if missing:
            what = f"images of {self.annotations} are not in this folder"
            refuse(self.images, what, missing)


def _check_classes(file: Path, file_map: ClassMap, class_map: ClassMap) -> tuple[int, ...]:
    """Refuse categories that ``class_map`` lacks; the ids that are only named otherwise."""
    index_of = class_map.index_of
    names = dict(zip(file_map.category_ids, file_map.names, strict=True))
    unknown = [f"{i} ({names[i]})" for i in file_map.category_ids if i not in index_of]
    if unknown:
        refuse(
            file,
            f"category ids that are not among the model's ({some(index_of)}); use the annotation "
            "file of the model's classes, or train a model on these",
            unknown,
        )
    renamed = [i for i in names if _plain(names[i]) != _plain(class_map.name(index_of[i or 0]))]
    if len(renamed) == len(names):
        raise DataError(
            f"{file}: no category has the name that its id has in the model: id {renamed[0]} is "
            f"{names[renamed[0]]!r} here and {class_map.name(index_of[renamed[0] or 0])!r} there; "
            "the model was trained on another data set"
        )
    return tuple(i for i in renamed if i is not None)


def _clip(
    xywh: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, int]]:
    """Boxes as xyxy inside their images, which of them have an area left, and the counts.

    Args:
        xywh: ``[M, 4]`` x, y, width, height in pixels.
        sizes: ``[M, 2]`` (height, width) of each box's image.
    """
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    inside = boxes.clip(0, np.tile(sizes[:, ::-1], 2))
    has_area = np.all(xywh[:, 2:] > 0, axis=1)
    # In single precision, as they are kept: a sliver may have no area there.
    rounded = inside.astype(np.float32)
    keep = has_area & np.all(rounded[:, 2:] > rounded[:, :2], axis=1)
    moved = (np.abs(inside - boxes) > CLIP_TOLERANCE).any(axis=1)
    counts = {
        "clipped": int((keep & moved).sum()),
        "dropped_no_area": int((~has_area).sum()),
        "dropped_outside": int((has_area & ~keep).sum()),
    }
    return inside, keep, counts


def _plain(name: str | None) -> str:
    """A class name without case, blanks and signs, in which data sets differ without meaning it."""
    return "".join(c for c in (name or "").lower() if c.isalnum())


def _file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
