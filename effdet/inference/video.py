# SPDX-License-Identifier: Apache-2.0
"""Frames of video files, streams and cameras, by PyAV (the extra ``video``)."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from effdet.errors import DataError, UsageError, one_line, printable
from effdet.extras import import_extra
from effdet.files.regular import open_regular
from effdet.inference.addresses import is_address
from effdet.inference.sources import CAMERA, VideoSource
from effdet.settings import MAX_PIXELS

TIMEOUT = 15.0
"""Seconds without a frame after which a stream or a camera is given up."""

CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,mjpeg,mpjpeg,m4v,h264,hevc,ogg,gif"
"""What a file may be. No playlists: those of others would name files and addresses to be read."""

STREAMS = f"{CONTAINERS},hls,dash,rtsp,rtp,sdp,live_flv"
PROTOCOLS = "http,https,tls,tcp,udp,rtp,srtp,rtmp,rtmps,rtmpt,srt,crypto,httpproxy"
"""What an address may lead to: never a file of this machine."""

_LOST_SHARE, _LOST_SECONDS = 0.01, 0.25
"""Missing before a video counts as cut short or damaged: containers are not more exact."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        image: ``[3, H, W]`` uint8 RGB, upright.
        number: of the frame, from 0.
        time: seconds from the first frame.
    """

    image: Tensor
    number: int
    time: float


@dataclass(kw_only=True)
class VideoFacts:
    """What is known of a video, filled in while it is read.

    Attributes:
        rate: frames a second, as far as the file tells.
        expected: frames that the file promises, None where it does not.
        length: seconds that it promises, None where it does not.
        fault: what was wrong with it, None where nothing was.
    """

    rate: Fraction = Fraction(25)
    expected: int | None = None
    length: float | None = None
    fault: str | None = None

    def frames_wanted(self, every: int, max_frames: int) -> int | None:
        """How many frames reading is going to give; None where that is not known."""
        expected = self.expected
        if expected is None and self.length is not None:
            expected = round(self.length * self.rate)
        if expected is None:
            return max_frames or None
        wanted = -(-expected // every)
        return min(wanted, max_frames) if max_frames else wanted


def import_av() -> ModuleType:
    """PyAV.

    Raises:
        UsageError: where it is not installed, naming the extra.
    """
    # Its log stays off, as it is: with a level set, decoding threads wait for Python to take their
    # lines while Python waits for them to end.
    return import_extra("av", "video", "reading videos and cameras", UsageError)


@dataclass(kw_only=True)
class VideoReader:
    """Reads frames of one video; what could be read is given even where the rest cannot be.

    Attributes:
        source: the video.
        every: only each so many-th frame is given, the first one always.
        max_frames: as many at most are given; 0 for all.
        seconds: only frames of the first so many seconds; 0 for all.
        max_pixels: larger frames are refused.
        facts: of the video, as far as it is read.
    """

    source: VideoSource
    every: int = 1
    max_frames: int = 0
    seconds: float = 0.0
    max_pixels: int = MAX_PIXELS
    facts: VideoFacts = field(default_factory=VideoFacts)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in their order; where the video ends early, ``facts.fault`` says so afterwards.

        Raises:
            DataError: where not one frame can be read.
        """
        av = import_av()
        with self._open(av) as container:
            if not container.streams.video:
                raise DataError(f"{self._name}: there is no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            self._check_size(stream.codec_context.width, stream.codec_context.height)
            self._note_facts(av, container, stream)
            yield from self._frames(av, container, stream)

    @property
    def _name(self) -> str:
        return printable(str(self.source))

    def _open(self, av: ModuleType) -> Any:
        place = self.source.place
        try:
            if self.source.is_camera:
                return _open_camera(av, str(place).removeprefix(CAMERA))
            if isinstance(place, str) and is_address(place):
                options = {"format_whitelist": STREAMS, "protocol_whitelist": PROTOCOLS}
                if place.lower().startswith("rtsp"):
                    options["rtsp_transport"] = "tcp"
                return av.open(place, options=options, timeout=TIMEOUT)
            with open_regular(place, "video file", DataError):
                pass
            # An address in the file's name must stay a name.
            options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
            return av.open(f"file:{Path(place).absolute()}", options=options)
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self._name}: cannot open the video: {_reason(error)}") from error

    def _note_facts(self, av: ModuleType, container: Any, stream: Any) -> None:
        self.facts.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        if self.source.is_live:
            return
        self.facts.expected = stream.frames or None
        if stream.duration is not None and stream.time_base is not None:
            self.facts.length = float(stream.duration * stream.time_base)
        elif container.duration is not None and not container.streams.audio:
            self.facts.length = container.duration / av.time_base

    def _frames(self, av: ModuleType, container: Any, stream: Any) -> Iterator[Frame]:
        """Frames that are wanted, until the end, a limit or what cannot be read."""
        number, given, start, faults = -1, 0, None, _Faults(float(1 / self.facts.rate))
        for number, raw in enumerate(_decoded(av, container, stream, faults)):
            time = raw.time if raw.time is not None else float(number / self.facts.rate)
            start = time if start is None else start
            faults.pass_time(time - start)
            if self.seconds and time - start >= self.seconds:
                return
            if number % self.every == 0:
                self._check_size(raw.width, raw.height)
                yield Frame(image=_pixels(raw), number=number, time=max(0.0, time - start))
                given += 1
                if given == self.max_frames:
                    return
        self._conclude(number + 1, faults)

    def _conclude(self, num_frames: int, faults: "_Faults") -> None:
        if not num_frames:
            reason = faults.broken or faults.first or "no frame in it"
            raise DataError(f"{self._name}: cannot decode the video: {reason}")
        expected, length = self.facts.expected, self.facts.length
        if faults.broken:
            self._fault(f"ends early, after {num_frames} frames: {faults.broken}")
        elif faults.count:
            self._fault(f"is damaged: {faults.count} faults beside {num_frames} frames")
        elif expected is not None:
            if expected - num_frames > max(1, _LOST_SHARE * expected):
                self._fault(f"ends early: {num_frames} of {expected} frames are there")
        elif length is not None and length - faults.end > _LOST_SECONDS:
            self._fault(f"ends early: {faults.end:.2f} of {length:.2f} s are there")
        elif faults.has_gap:
            self._fault("is damaged: frames in the middle are missing")

    def _fault(self, text: str) -> None:
        self.facts.fault = f"{self._name}: the video {text}; what was found is kept"

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise DataError(
                f"{self._name}: frames of {width} x {height} pixels, more than --max-pixels "
                f"{self.max_pixels}"
            )


@dataclass
class _Faults:
    """What went wrong while decoding, and when the frames came.

    Attributes:
        usual: seconds from frame to frame.
        broken: why nothing more can be read.
    """

    usual: float
    count: int = 0
    first: str = ""
    broken: str = ""
    _time: float = 0.0
    _steps: int = 0
    _regular: int = 0
    _longest: float = 0.0

    def add(self, text: str) -> None:
        self.count += 1
        self.first = self.first or text

    def pass_time(self, time: float) -> None:
        """A frame is shown from ``time`` on, in seconds from the first."""
        step, self._time = time - self._time, time
        self._steps += 1
        self._regular += abs(step - self.usual) < self.usual / 2
        self._longest = max(self._longest, step)

    @property
    def end(self) -> float:
        """Seconds until the last frame goes."""
        return self._time + self.usual

    @property
    def has_gap(self) -> bool:
        """Whether frames that come regularly stay away for a while."""
        is_regular = self._regular >= 0.8 * self._steps
        return is_regular and self._longest > max(_LOST_SECONDS, 4 * self.usual)


def _decoded(av: ModuleType, container: Any, stream: Any, faults: _Faults) -> Iterator[Any]:
    """Decoded frames; a damaged packet costs its own frames only."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, OSError) as error:
            faults.broken = _reason(error)
            return
        try:
            for frame in packet.decode():
                if frame.is_corrupt:
                    faults.add("a damaged frame")
                yield frame
        except av.FFmpegError as error:
            faults.add(_reason(error))


def _open_camera(av: ModuleType, name: str) -> Any:
    """A camera by its number or its name, through the system's own input."""
    formats: dict[str, tuple[str, Callable[[str], str]]] = {
        "linux": ("v4l2", lambda n: f"/dev/video{n}" if n.isdecimal() else n),
        "darwin": ("avfoundation", lambda n: n),
        "win32": ("dshow", lambda n: f"video={n}"),
    }
    if sys.platform not in formats:
        raise UsageError(f"{CAMERA}{name}: cameras are not known on {sys.platform}")
    format_name, device = formats[sys.platform]
    return av.open(device(name), format=format_name, timeout=TIMEOUT)


def _pixels(frame: Any) -> Tensor:
    """``[3, H, W]`` uint8 RGB, upright as the file says."""
    rows = torch.from_numpy(frame.to_ndarray(format="rgb24"))  # [H, W, 3]
    quarters = round(frame.rotation / 90) % 4  # anticlockwise
    if quarters:
        rows = rows.rot90(quarters, (0, 1)).contiguous()
    return rows.permute(2, 0, 1)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None)
    return printable(text) if text else one_line(error)
