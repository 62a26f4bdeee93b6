# SPDX-License-Identifier: Apache-2.0
"""Detections of many image files: a folder with a picture for each, and one JSON."""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from effdet.data.transforms import size_of
from effdet.errors import DataError
from effdet.files import new_folder
from effdet.inference.draw import draw
from effdet.inference.predict import Detector, batches
from effdet.inference.sources import read_image
from effdet.names import file_name, json_text
from effdet.postprocess import Postprocess
from effdet.settings import MAX_PIXELS
from effdet.structures import ClassMap, Detections

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Formats that a picture keeps from its image; all others become PNG."""


@dataclass(kw_only=True)
class FolderReport:
    """What :func:`predict_to_folder` did.

    Attributes:
        predictions: the file that it wrote.
        num_images: images that went through the model.
        num_detections: detections in all of them.
        failed: file -> what is wrong with it.
        notes: file -> what of it was not used, such as further frames.
    """

    predictions: Path
    num_images: int = 0
    num_detections: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    notes: dict[Path, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise :class:`DataError` that names what failed, if anything did."""
        if self.failed:
            total = self.num_images + len(self.failed)
            errors = "; ".join(self.failed.values())
            raise DataError(f"{len(self.failed)} of {total} images could not be read: {errors}")


def predict_to_folder(
    detector: Detector,
    sources: Sequence[Path],
    output: str | Path,
    *,
    batch_size: int = 8,
    classes: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    **settings: Any,
) -> FolderReport:
    """Write a picture with boxes for each image, and ``predictions.json``, into a new folder.

    An image that cannot be decoded does not stop the others; it is in the report, and under
    ``failed`` in the file; where none can be, nothing is left behind. The file's content::

        {"class_map": {"names": [...], "category_ids": [...]},
         "settings": {"nms": "hard", "score_threshold": 0.3, ...},
         "images": [{"file": "photos/a.jpg", "picture": "a.jpg", "width": 640, "height": 480,
                     "detections": [{"name": "dog", "category_id": 18, "score": 0.91,
                                     "box": [x1, y1, x2, y2]}, ...]}, ...],
         "failed": [{"file": "photos/b.jpg", "error": "..."}]}

    Boxes are in pixels of the upright image; ``picture`` is relative to the folder. An image has a
    ``note`` where its file holds more than was used, such as further frames.

    Args:
        detector: finds the objects.
        sources: image files, such as :func:`expand_sources` gives.
        output: folder that does not exist yet or is empty.
        batch_size: images that go through the model at once.
        classes: names of the classes that are wanted; all if empty.
        max_pixels: larger images are refused before they are decoded.
        settings: fields of :class:`PostprocessConfig`.

    Raises:
        UsageError: for a folder that is not empty, or an unknown class or setting.
        DataError: where no image can be decoded.
    """
    process = detector.build_postprocess(classes, **settings)
    parts = batches(sources, batch_size)
    with _folder_for_something(Path(output)) as folder:
        report = FolderReport(predictions=folder / "predictions.json")
        pictures = {path: folder / name for path, name in zip(sources, picture_names(sources))}
        rows = []
        with tqdm(total=len(sources), unit="image", disable=None) as progress:
            for paths in parts:
                images = _decode(paths, report, max_pixels)
                rows += _predict_batch(detector, process, images, pictures, report)
                progress.update(len(paths))
        if not rows:
            report.check()
        content = {
            "class_map": detector.class_map.to_dict(),
            "settings": asdict(process.config) | {"classes": list(classes)},
            "images": rows,
            "failed": [{"file": str(p), "error": error} for p, error in report.failed.items()],
        }
        report.predictions.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")
    return report


@contextlib.contextmanager
def _folder_for_something(output: Path) -> Iterator[Path]:
    """A new folder, which goes again where nothing was written into it."""
    existed = False
    with contextlib.suppress(OSError):  # which the next line explains
        existed = output.exists()
    folder = new_folder(output, "name a new one")
    try:
        yield folder
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()


def picture_names(paths: Iterable[Path]) -> list[str]:
    """A file name for each picture: that of its image, as :func:`file_name` makes it harmless.

    Where it was given before, it is numbered.
    """
    names: list[str] = []
    used: set[str] = set()
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in PICTURE_SUFFIXES else ".png"
        name, number = file_name(path.stem, suffix), 1
        while name.casefold() in used:  # some file systems do not tell cases apart
            number += 1
            name = file_name(path.stem, f"_{number}{suffix}")
        used.add(name.casefold())
        names.append(name)
    return names


def _predict_batch(
    detector: Detector,
    process: Postprocess,
    images: Mapping[Path, Tensor],
    pictures: Mapping[Path, Path],
    report: FolderReport,
) -> list[dict[str, Any]]:
    """Draw the pictures of a batch and count; a row of ``predictions.json`` for each."""
    found = detector.detect(list(images.values()), process) if images else []
    rows = []
    for (path, image), detections in zip(images.items(), found, strict=True):
        draw(image, detections, detector.class_map, pictures[path])
        row = {"file": str(path), "picture": pictures[path].name}
        if path in report.notes:
            row["note"] = report.notes[path]
        rows.append(row | _describe(image, detections, detector.class_map))
    report.num_images += len(rows)
    report.num_detections += sum(len(detections) for detections in found)
    return rows


def _describe(image: Tensor, detections: Detections, class_map: ClassMap) -> dict[str, Any]:
    height, width = size_of(image)
    boxes, scores = detections.boxes.tolist(), detections.scores.tolist()
    rows = [
        {
            "name": class_map.name(label),
            "category_id": class_map.category_ids[label],
            "score": round(score, 5),
            "box": [round(value, 2) for value in box],
        }
        for box, score, label in zip(boxes, scores, detections.labels.tolist(), strict=True)
    ]
    return {"width": width, "height": height, "detections": rows}


def _decode(paths: Sequence[Path], report: FolderReport, max_pixels: int) -> dict[Path, Tensor]:
    """The images that can be decoded; what is to be said of the others goes into the report."""
    images = {}
    for path in paths:
        note = functools.partial(report.notes.__setitem__, path)
        try:
            images[path] = read_image(path, max_pixels, note=note)
        except DataError as error:
            report.failed[path] = str(error)
    return images
