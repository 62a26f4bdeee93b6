# SPDX-License-Identifier: Apache-2.0
"""Predictions of many images and videos: a new folder with pictures and records."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effdet.bars import Bar
from effdet.counts import counted
from effdet.errors import DataError
from effdet.files import new_folder
from effdet.inference.coco import Coco, find_image_ids
from effdet.inference.naming import OutputNames
from effdet.inference.outputs import Crops, Csv, Output, Pictures, YoloLabels
from effdet.inference.predict import Detector
from effdet.inference.predictions import Predictions
from effdet.inference.reading import Picture, ReadSettings, Unread, read_sources
from effdet.inference.search import Search
from effdet.inference.sources import AnySource, ImageSource, VideoSource
from effdet.inference.streaming import find_in_all
from effdet.inference.video import import_av
from effdet.settings import Save


@dataclass(kw_only=True)
class FolderReport:
    """What :func:`predict_to_folder` did.

    Attributes:
        folder: where it wrote.
        num_sources: images and videos that were given.
        unit: what these are: ``image``, ``video``, or ``source`` where both are among them.
        num_images: images that went through the model, frames of videos among them.
        num_detections: detections in all of them.
        seconds: that reading, finding and writing took.
        failed: source -> what is wrong with it.
        cut_short: video -> why its end is missing; what was found before is there.
        notes: source -> what of it was not used, such as further frames.
    """

    folder: Path
    num_sources: int = 0
    unit: str = "image"
    num_images: int = 0
    num_detections: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    cut_short: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def predictions(self) -> Path:
        """Where our own record is, if it was wanted."""
        return self.folder / Predictions.FILE

    @property
    def images_per_second(self) -> float:
        """Of the whole way from file to file."""
        return self.num_images / self.seconds if self.seconds else 0.0

    def check(self) -> None:
        """Raise :class:`DataError` that names what failed, if anything did."""
        texts = list(self.cut_short.values())
        if self.failed:
            errors = "; ".join(self.failed.values())
            given = counted(self.num_sources, self.unit)
            texts.append(f"{len(self.failed)} of {given} could not be read: {errors}")
        if texts:
            raise DataError("; ".join(texts))


def predict_to_folder(
    detector: Detector,
    sources: Sequence[AnySource | Path],
    output: str | Path,
    *,
    save: Sequence[Save] = ("pictures", "json"),
    read: ReadSettings | None = None,
    annotations: str | Path | None = None,
    yolo_scores: bool = False,
    batch_size: int = 8,
    classes: Sequence[str] = (),
    **options: Any,
) -> FolderReport:
    """Write what is found in images and videos into a new folder.

    ``save`` says what is written:

    - ``pictures``: a picture with boxes for each image, an MP4 video with boxes for each video;
    - ``json``: ``predictions.json``, see below;
    - ``coco``: ``coco_results.json`` in COCO's results format and, unless the ids are those of
      ``annotations``, ``coco_images.json``, which numbers the images;
    - ``csv``: ``detections.csv``, a row a detection;
    - ``yolo``: ``labels/NAME.txt`` for each image, and ``data.yaml`` with the names;
    - ``crops``: ``crops/CLASS/NAME_1.jpg`` for each detection.

    An image that cannot be read does not stop the others, and of a video that breaks off all before
    that is kept; both are in the report and in the file. Where nothing can be read, nothing is left
    behind. An interrupt leaves whole files of what was found till then. The content of
    ``predictions.json``::

        {"class_map": {"names": [...], "category_ids": [...]},
         "settings": {"nms": "hard", "score_threshold": 0.3, ...},
         "images": [{"file": "photos/a.jpg", "picture": "a.jpg", "width": 640, "height": 480,
                     "detections": [{"name": "dog", "category_id": 18, "score": 0.91,
                                     "box": [x1, y1, x2, y2]}, ...]}, ...],
         "failed": [{"file": "photos/b.jpg", "error": "..."}],
         "videos": [{"file": "clip.mp4", "predictions": "clip.jsonl", "video": "clip.mp4",
                     "num_frames": 250, "num_detections": 317}]}

    Boxes are in pixels of the upright image; names are relative to the folder. A line of
    ``clip.jsonl`` has the ``frame``, from 0, its ``time`` in seconds, ``width``, ``height`` and
    ``detections``. An image has a ``note`` where its file holds more than was used, a video an
    ``error`` where it breaks off.

    Args:
        detector: finds the objects.
        sources: images and videos, such as :func:`expand_sources` gives.
        output: folder that does not exist yet or is empty.
        save: what is written.
        read: how sources are read.
        annotations: COCO annotation file that gives the images' ids, by their file names.
        yolo_scores: whether a line for YOLO ends with the score.
        batch_size: images that go through the model at once.
        classes: names of the classes that are wanted; all if empty.
        options: ``tta``, ``tile`` and ``tile_overlap`` of :meth:`Detector.predict`, and fields of
            :class:`PostprocessConfig`.

    Raises:
        UsageError: for a folder that is not empty, an unknown class or setting, a missing package.
        DataError: where nothing can be read, or an image is not in ``annotations``.
    """
    read = read or ReadSettings()
    known = [ImageSource(place) if isinstance(place, Path) else place for place in sources]
    if any(isinstance(source, VideoSource) for source in known):
        import_av()  # before anything is done
    search = detector.build_search(classes, batch_size=batch_size, **options)
    image_ids = None if annotations is None else find_image_ids(known, annotations)
    looks = {"tta": len(search.views) > 1, "tile": search.tile, "tile_overlap": search.tile_overlap}
    settings = asdict(search.process.config) | {"classes": list(classes)} | looks
    head = {"class_map": detector.class_map.to_dict(), "settings": settings}
    with _folder_for_something(Path(output)) as folder:
        names, class_map = OutputNames(), detector.class_map
        outputs: dict[str, Output] = {
            "pictures": Pictures(folder, names, class_map),
            "json": Predictions(folder, names, class_map, head, "pictures" in save),
            "coco": Coco(folder, class_map, image_ids),
            "csv": Csv(folder, class_map),
            "yolo": YoloLabels(folder, names, class_map, yolo_scores),
            "crops": Crops(folder, names, class_map),
        }
        report = FolderReport(folder=folder, num_sources=len(known), unit=_unit(known))
        _run(search, known, read, [outputs[name] for name in outputs if name in save], report)
    if not report.num_images:
        report.check()
    return report


def _unit(sources: Sequence[AnySource]) -> str:
    videos = [isinstance(source, VideoSource) for source in sources]
    if not any(videos):
        return "image"
    return "video" if all(videos) else "source"


def _run(
    search: Search,
    sources: Sequence[AnySource],
    read: ReadSettings,
    outputs: Sequence[Output],
    report: FolderReport,
) -> None:
    """Read, find and write; the outputs are closed whatever happens."""
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.callback(output.close)
        total = None if any(isinstance(s, VideoSource) for s in sources) else len(sources)
        bar = stack.enter_context(Bar(total=total, unit="image", disable=None))
        items = read_sources(sources, read, 2 * search.batch_size + read.num_workers)
        stack.callback(items.close)
        for item in find_in_all(search, items):
            bar.update()
            if isinstance(item, Unread):
                _note_unread(item, outputs, report)
                continue
            picture, found = item
            _note_picture(picture, len(found), report)
            for output in outputs:
                output.add(picture, found)
            if len(sources) == 1 and picture.video is not None:
                bar.total = picture.video.frames_wanted(read.every, read.max_frames)
    report.seconds = time.perf_counter() - start


def _note_picture(picture: Picture, num_detections: int, report: FolderReport) -> None:
    report.num_images += 1
    report.num_detections += num_detections
    if picture.note is not None:
        report.notes[str(picture.source)] = picture.note


def _note_unread(unread: Unread, outputs: Sequence[Output], report: FolderReport) -> None:
    kept = report.cut_short if unread.is_rest else report.failed
    kept[str(unread.source)] = str(unread.error)
    for output in outputs:
        if isinstance(output, Predictions):
            output.fail(unread)


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
