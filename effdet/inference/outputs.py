# SPDX-License-Identifier: Apache-2.0
"""Pictures, videos and records of predictions, written as they come.

Each output makes its files with the first picture it is given, so that there are none of nothing,
and is complete after ``close``, whatever happened before.
"""

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from effdet.boxes import clip_boxes
from effdet.data.transforms import size_of
from effdet.drawing import save_picture, to_picture
from effdet.errors import DataError, shown
from effdet.files.yaml_file import dump_yaml
from effdet.inference.draw import draw
from effdet.inference.naming import OutputNames
from effdet.inference.reading import Picture
from effdet.inference.sources import AnySource
from effdet.inference.video_file import VideoFile
from effdet.names import csv_value, file_name
from effdet.structures import ClassMap, Detections


class Output(ABC):
    """Takes every picture with what was found in it."""

    @abstractmethod
    def add(self, picture: Picture, found: Detections) -> None:
        """Write about one image or frame; those of a video come one after the other."""

    def close(self) -> None:
        """Write what is still to be written."""
        return


def describe(found: Detections, class_map: ClassMap) -> list[dict[str, Any]]:
    """Each detection in plain values: class, score, and box as xyxy in pixels."""
    boxes, scores = found.boxes.tolist(), found.scores.tolist()
    return [
        {
            "name": class_map.name(label),
            "category_id": class_map.category_ids[label],
            "score": round(score, 5),
            "box": [round(value, 2) for value in box],
        }
        for box, score, label in zip(boxes, scores, found.labels.tolist(), strict=True)
    ]


class Pictures(Output):
    """A picture with boxes for each image, a video with boxes for each video."""

    def __init__(self, folder: Path, names: OutputNames, class_map: ClassMap) -> None:
        self._folder, self._names, self._class_map = folder, names, class_map
        self._video: VideoFile | None = None
        self._source: AnySource | None = None

    def add(self, picture: Picture, found: Detections) -> None:
        """Draw an image, or the next frame of a video."""
        drawn = draw(picture.image, found, self._class_map)
        if picture.video is None:
            save_picture(drawn, self._folder / self._names.picture(picture.source))
            return
        if self._video is None or picture.source != self._source:
            self.close()
            path = self._folder / self._names.of(picture.source, ".mp4")
            self._video = VideoFile(path, drawn.size, picture.video.rate)
            self._source = picture.source
        self._video.add(drawn, picture.time or 0.0)

    def close(self) -> None:
        """End the video."""
        video, self._video = self._video, None
        if video is not None:
            video.close()


class Crops(Output):
    """A picture of each detection, in a folder for its class."""

    def __init__(self, folder: Path, names: OutputNames, class_map: ClassMap) -> None:
        self._folder, self._names, self._class_map = folder / "crops", names, class_map

    def add(self, picture: Picture, found: Detections) -> None:
        """Cut out each detection."""
        whole = to_picture(picture.image)
        stem = self._names.of(picture.source, ".crop").removesuffix(".crop")
        for number, (box, label) in enumerate(zip(found.boxes, found.labels.tolist()), start=1):
            edges = clip_boxes(box, size_of(picture.image)).round().int().tolist()
            if edges[2] > edges[0] and edges[3] > edges[1]:
                folder = self._folder / file_name(self._class_map.name(label))
                name = f"{stem}_{number}.jpg"
                if picture.frame is not None:
                    folder, name = folder / stem, f"{picture.frame:06d}_{number}.jpg"
                folder.mkdir(parents=True, exist_ok=True)
                save_picture(whole.crop(tuple(edges)), folder / name)


class YoloLabels(Output):
    """A text file for each image or frame, and ``data.yaml`` with the names of the classes.

    A line is ``class x y width height``, centre and size as shares of the image's width and height,
    and at will the score. Classes are numbered from 0 without the map's unnamed slots.
    """

    def __init__(
        self, folder: Path, names: OutputNames, class_map: ClassMap, with_scores: bool
    ) -> None:
        self._folder, self._names, self._class_map = folder, names, class_map
        self._with_scores = with_scores
        self._number = {label: i for i, label in enumerate(class_map.named)}
        self._is_begun = False

    def add(self, picture: Picture, found: Detections) -> None:
        """Write the labels of an image or a frame."""
        names = [self._class_map.name(label) for label in self._class_map.named]
        if not self._is_begun and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(
                f"--save yolo: two classes of the model have the name {shown(twice)}, and "
                "data.yaml has one for each class; --save json or coco keep them apart by ids"
            )
        labels = self._folder / "labels"
        name = self._names.of(picture.source, ".txt")
        if picture.frame is not None:
            labels, name = labels / name.removesuffix(".txt"), f"{picture.frame:06d}.txt"
        labels.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in self._lines(picture, found))
        (labels / name).write_text(text, encoding="utf-8")
        if not self._is_begun:
            self._is_begun = True
            content = dump_yaml({"names": names})
            (self._folder / "data.yaml").write_text(content, encoding="utf-8")

    def _lines(self, picture: Picture, found: Detections) -> Iterator[str]:
        height, width = size_of(picture.image)
        boxes = clip_boxes(found.boxes, (height, width)).double().numpy()
        shares = boxes / [width, height, width, height]
        centres, sizes = (shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]
        rows = np.concatenate([centres, sizes], axis=1).tolist()
        for row, label, score in zip(rows, found.labels.tolist(), found.scores.tolist()):
            values = [*row, score] if self._with_scores else row
            yield " ".join([str(self._number[label]), *(f"{value:.6f}" for value in values)])


class Csv(Output):
    """``detections.csv``, a row a detection; what a spreadsheet would run is made harmless."""

    HEADER = ("file", "frame", "time", "name", "category_id", "score", "x1", "y1", "x2", "y2")

    def __init__(self, folder: Path, class_map: ClassMap) -> None:
        self._path, self._class_map = folder / "detections.csv", class_map
        self._file: IO[str] | None = None

    def add(self, picture: Picture, found: Detections) -> None:
        """Write a row for each detection."""
        if self._file is None:
            self._file = self._path.open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
            csv.writer(self._file).writerow(self.HEADER)
        values: list[Any]
        time = None if picture.time is None else round(picture.time, 3)
        for row in describe(found, self._class_map):
            values = [str(picture.source), picture.frame, time, row["name"], row["category_id"]]
            values += [row["score"], *row["box"]]
            csv.writer(self._file).writerow([csv_value(value) for value in values])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
