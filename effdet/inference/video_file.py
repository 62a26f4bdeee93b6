# SPDX-License-Identifier: Apache-2.0
"""Writing pictures as a video file, one after the other."""

from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from effdet.files import WriteError
from effdet.inference.video import import_av

CLOCK = Fraction(1, 60_000)
"""Seconds; times of frames are multiples of it. 24, 25, 30, 50 and 60 frames a second fit."""

QUALITY = {"crf": "23", "preset": "veryfast"}


class VideoFile:
    """An MP4 file that grows picture by picture: H.264, or MPEG-4 where PyAV was built without.

    Args:
        path: the file.
        size: ``(width, height)`` in pixels of the first picture; others are brought to it.
        rate: frames a second that are expected.

    Raises:
        WriteError: where the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction) -> None:
        self.path, self._last = path, -1
        self._av = import_av()
        self._size = size[0] + size[0] % 2, size[1] + size[1] % 2  # H.264's colours come in twos
        try:
            self._container = self._av.open(str(path.absolute()), "w", format="mp4")
            self._stream = _add_stream(self._av, self._container, self._size, rate)
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def add(self, picture: Image.Image, time: float) -> None:
        """Append a picture that is shown from ``time``, in seconds, on."""
        fitted = Image.new("RGB", self._size)
        within = (min(picture.width, self._size[0]), min(picture.height, self._size[1]))
        fitted.paste(picture if within == picture.size else picture.resize(within))
        frame = self._av.VideoFrame.from_image(fitted)
        frame.time_base = CLOCK
        self._last = frame.pts = max(self._last + 1, round(time / CLOCK))
        self._write(frame)

    def close(self) -> None:
        """Write what is still to be written; the file is whole then."""
        try:
            self._write(None)
        finally:
            self._container.close()

    def _write(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Any) -> WriteError:
        number = getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or error
        return WriteError(number, f"cannot write {self.path}: {reason}")


def _add_stream(av: ModuleType, container: Any, size: tuple[int, int], rate: Fraction) -> Any:
    has_h264 = "libx264" in av.codecs_available
    options = QUALITY if has_h264 else {}
    stream = container.add_stream(
        "libx264" if has_h264 else "mpeg4", rate=rate.limit_denominator(1001), options=options
    )
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = CLOCK
    return stream
