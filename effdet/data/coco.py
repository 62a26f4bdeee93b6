# SPDX-License-Identifier: Apache-2.0
"""COCO data sets: images with boxes as samples.

COCO's category ids and ``[x, y, width, height]`` boxes end here; behind this file there are class
indices and xyxy boxes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.annotations import (
    AnnotationTable,
    Faults,
    Renamed,
    check_classes,
    check_image_files,
    fit_boxes,
    read_annotations,
    refuse_repairs,
    some,
)
from effdet.counts import counted
from effdet.data.images import Note, decode_annotated, ignore_notes
from effdet.errors import DataError, printable, shown
from effdet.settings import MAX_PIXELS
from effdet.structures import ClassMap, Target


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
        renamed: (id, name here, name in the given class map) of categories where they differ.
        no_id, no_area, no_iscrowd: annotations without such a field: numbered, given the area of
            their box, taken for no crowd.
        whole_float, bool_iscrowd: values of another type that were read as the number they mean.
        polygons: outlines of which the box around was taken.
    """

    images: int
    empty_images: int
    boxes: int
    crowd_boxes: int
    clipped: int
    dropped_no_area: int
    dropped_outside: int
    renamed: tuple[Renamed, ...] = ()
    no_id: int = 0
    no_area: int = 0
    no_iscrowd: int = 0
    whole_float: int = 0
    bool_iscrowd: int = 0
    polygons: int = 0

    @property
    def dropped(self) -> int:
        """Boxes left out, for whatever reason."""
        return self.dropped_no_area + self.dropped_outside

    def __str__(self) -> str:
        text = (
            f"{counted(self.images, 'image')} ({self.empty_images} without boxes), "
            f"{counted(self.boxes, 'box', 'boxes')} "
            f"({self.crowd_boxes} crowd), {self.clipped} clipped, {self.dropped} dropped"
        )
        if self.dropped:
            text += f" ({self.dropped_no_area} without area, {self.dropped_outside} outside)"
        missing = {"id": self.no_id, "area": self.no_area, "iscrowd": self.no_iscrowd}
        if any(missing.values()):
            filled = ", ".join(f"{count} {key}" for key, count in missing.items() if count)
            text += f"; missing fields filled in: {filled}"
        if self.whole_float:
            text += f"; whole numbers with a point: {self.whole_float}"
        if self.bool_iscrowd:
            text += f"; iscrowd of true or false: {self.bool_iscrowd}"
        if self.polygons:
            text += f"; boxes around polygons: {self.polygons}"
        if self.renamed:
            pairs = [f"{i} ({shown(here)} for {shown(there)})" for i, here, there in self.renamed]
            text += (
                f"; {len(pairs)} category ids named otherwise than in the class map: {some(pairs)}"
            )
        return text


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxColumns:
    """All ``M`` boxes of a data set of ``N`` images, in the order of the images.

    Attributes:
        boxes: ``[M, 4]`` float32 xyxy in pixels.
        labels: ``[M]`` int64 class indices.
        crowd: ``[M]`` bool, which are crowd regions.
        image_index: ``[M]`` index of the image.
        sizes: ``[N, 2]`` (height, width) of the images.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_index: NDArray[np.int64]
    sizes: NDArray[np.int64]


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
        self,
        annotations: str | Path | AnnotationTable,
        images: str | Path,
        class_map: ClassMap | None = None,
        *,
        strict: bool = False,
        follow_links: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Read and check an annotation file.

        Args:
            annotations: the file, or what was read of it before.
            images: the folder that its file names are relative to.
            class_map: the classes of a checkpoint; by default the file's own categories.
            strict: refuse what would be repaired.
            follow_links: read images that a link leads to outside of the data folder.
            max_pixels: larger images are refused before decoding.

        Raises:
            DataError: where the file cannot be read or a value cannot be right, with the file, the
                places in it, the values and their number.
        """
        if not isinstance(annotations, AnnotationTable):
            annotations = read_annotations(annotations)
        table = annotations
        self.annotations, self.images = Path(table.name), Path(images)
        self.max_pixels = max_pixels
        file_map = table.class_map()
        self.class_map = class_map if class_map is not None else file_map
        categories = dict(zip(table.category_ids.tolist(), table.category_names, strict=True))
        renamed = check_classes(table.name, categories, self.class_map)
        self._check_files(table, follow_links)
        self.image_ids, self._sizes, self._names = table.image_ids, table.sizes, table.file_names
        self._take_boxes(table, renamed, strict)

    def _take_boxes(
        self, table: AnnotationTable, renamed: tuple[Renamed, ...], strict: bool
    ) -> None:
        """Keep the boxes by image, cut to it, and count what was changed."""
        fitted = fit_boxes(table)
        if strict:
            refuse_repairs(table, fitted.repaired)
        index_of = self.class_map.index_of
        label_of = np.array([index_of[i] for i in table.category_ids.tolist()], np.int64)
        keep, image_index = fitted.keep, table.image_index
        order = np.flatnonzero(keep)[np.argsort(image_index[keep], kind="stable")]
        per_image = np.bincount(image_index[keep], minlength=len(self))
        self._offsets = np.concatenate([[0], np.cumsum(per_image)])
        self._boxes = torch.from_numpy(fitted.boxes[order].astype(np.float32))
        self._labels = torch.from_numpy(label_of[table.category_index[order]])
        self._crowd = torch.from_numpy(table.crowd[order])
        self.report = DataReport(
            images=len(self),
            empty_images=int((per_image == 0).sum()),
            boxes=len(order),
            crowd_boxes=int(table.crowd[order].sum()),
            clipped=fitted.count("box-clipped"),
            dropped_no_area=fitted.count("box-without-area"),
            dropped_outside=fitted.count("box-outside"),
            renamed=renamed,
            **{kind.replace("-", "_"): len(rows) for kind, rows in table.filled.items()},
            whole_float=table.mended.counts["whole-float"],
            bool_iscrowd=table.mended.counts["bool-iscrowd"],
            polygons=table.mended.counts["polygon"],
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def load(self, index: int, note: Note = ignore_notes) -> tuple[Tensor, Target]:
        """The image at ``index`` as ``[3, H, W]`` uint8 RGB, and its target in its pixels.

        ``note`` is called with a line where the file holds more than one image.

        Raises:
            DataError: where the image cannot be read or has not the recorded size.
        """
        target = self.target(index)
        path = self.path(index)
        return decode_annotated(path, target.size, self.max_pixels, note=note), target

    def path(self, index: int) -> Path:
        """Path of the image file at ``index``."""
        name: str = self._names[index]
        return self.images / name

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

    def columns(self) -> BoxColumns:
        """All boxes at once; they are the set's own and must not be changed."""
        return BoxColumns(
            boxes=self._boxes,
            labels=self._labels,
            crowd=self._crowd,
            image_index=np.repeat(np.arange(len(self)), np.diff(self._offsets)),
            sizes=self._sizes,
        )

    @property
    def file_names(self) -> Sequence[str]:
        """The file name of each image, relative to ``images``."""
        return self._names

    def require_boxes(self) -> None:
        """Refuse a set without a single box.

        Raises:
            DataError: since nothing can be learnt from it.
        """
        if not self.report.boxes:
            raise DataError(
                f"{printable(str(self.annotations))}: annotations: expected at least one box to "
                f"train on, found none ({self.report})"
            )

    def _check_files(self, table: AnnotationTable, follow_links: bool) -> None:
        faults = Faults(table.name)
        names, ids = list(table.file_names), table.image_ids.tolist()
        within = None if follow_links else table.data_folder or self.images
        check_image_files(names, ids, self.images, faults, within=within)
        faults.raise_if_any()
