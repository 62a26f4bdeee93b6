# SPDX-License-Identifier: Apache-2.0
"""``predictions.json``, and a file of JSON lines for each video."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from effdet.data.transforms import size_of
from effdet.inference.naming import OutputNames
from effdet.inference.outputs import Output, describe
from effdet.inference.reading import Picture, Unread
from effdet.inference.sources import AnySource
from effdet.names import json_text
from effdet.structures import ClassMap, Detections


class Predictions(Output):
    """Our own record of everything, written at the end; frames of videos are written as they come.

    Args:
        folder: where to write.
        names: of the files.
        class_map: of the detections.
        head: what stands first in the file, such as the settings.
        with_pictures: whether there are pictures, which the file then names.
    """

    FILE = "predictions.json"

    def __init__(
        self,
        folder: Path,
        names: OutputNames,
        class_map: ClassMap,
        head: Mapping[str, Any],
        with_pictures: bool,
    ) -> None:
        self.path = folder / self.FILE
        self._folder, self._names, self._class_map = folder, names, class_map
        self._head, self._with_pictures = head, with_pictures
        self._images: list[dict[str, Any]] = []
        self._videos: dict[AnySource, dict[str, Any]] = {}
        self._failed: list[dict[str, Any]] = []
        self._lines: IO[str] | None = None

    def add(self, picture: Picture, found: Detections) -> None:
        """Take what was found in an image or a frame."""
        height, width = size_of(picture.image)
        row = {"width": width, "height": height, "detections": describe(found, self._class_map)}
        if picture.video is None:
            self._images.append(self._about_image(picture) | row)
            return
        if picture.source not in self._videos:
            self._begin_video(picture)
        about = self._videos[picture.source]
        about["num_frames"] += 1
        about["num_detections"] += len(found)
        line = {"frame": picture.frame, "time": round(picture.time or 0.0, 3), **row}
        assert self._lines is not None
        self._lines.write(json_text(line, indent=None) + "\n")

    def fail(self, unread: Unread) -> None:
        """Take an image that could not be read, or a video that could not be to its end."""
        error = str(unread.error)
        if unread.source in self._videos:
            self._videos[unread.source]["error"] = error
        else:
            self._failed.append({"file": str(unread.source), "error": error})

    def close(self) -> None:
        """Write the file, where there is anything to write."""
        if self._lines is not None:
            self._lines.close()
        if self._images or self._videos:
            content = {**self._head, "images": self._images, "failed": self._failed}
            if self._videos:
                content["videos"] = list(self._videos.values())
            self.path.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")

    def _about_image(self, picture: Picture) -> dict[str, Any]:
        row = {"file": str(picture.source)}
        if self._with_pictures:
            row["picture"] = self._names.picture(picture.source)
        return row if picture.note is None else row | {"note": picture.note}

    def _begin_video(self, picture: Picture) -> None:
        if self._lines is not None:
            self._lines.close()
        name = self._names.of(picture.source, ".jsonl")
        self._lines = (self._folder / name).open("w", encoding="utf-8")
        about = {"file": str(picture.source), "predictions": name}
        if self._with_pictures:
            about["video"] = self._names.of(picture.source, ".mp4")
        self._videos[picture.source] = {**about, "num_frames": 0, "num_detections": 0}
