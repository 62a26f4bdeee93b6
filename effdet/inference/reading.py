# SPDX-License-Identifier: Apache-2.0
"""Sources read ahead of the model: decoded images and frames, batch by batch."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

from torch import Tensor

from effdet.cpus import usable_cpus
from effdet.errors import DataError
from effdet.inference.prefetch import iterate_ahead, map_ahead
from effdet.inference.sources import AnySource, ImageSource, VideoSource, read_image
from effdet.inference.video import VideoFacts, VideoReader
from effdet.settings import MAX_PIXELS

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image, or a frame of a video, on its way through the model.

    Attributes:
        source: where it is from.
        image: ``[3, H, W]`` uint8 RGB, upright.
        frame: number of a video's frame, from 0; None for an image.
        time: seconds from the video's first frame; None for an image.
        note: what of the file the pixels do not show.
        video: what is known of the video.
    """

    source: AnySource
    image: Tensor
    frame: int | None = None
    time: float | None = None
    note: str | None = None
    video: VideoFacts | None = None


@dataclass(frozen=True)
class Unread:
    """An image, or the rest of a video, that could not be had, and why.

    Attributes:
        source: where it is from.
        error: for people.
        is_rest: whether frames of the video came before.
    """

    source: AnySource
    error: DataError
    is_rest: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How sources are read.

    Attributes:
        workers: threads that decode; 0 decodes when the model waits, None goes by the CPUs.
        max_pixels: larger images and frames are refused.
        every: only each so many-th frame of a video.
        max_frames: frames of a video at most; 0 for all.
        seconds: of a video at most; 0 for all.
    """

    workers: int | None = None
    max_pixels: int = MAX_PIXELS
    every: int = 1
    max_frames: int = 0
    seconds: float = 0.0

    @property
    def num_workers(self) -> int:
        """Threads that decode."""
        if self.workers is not None:
            return self.workers
        return min(8, usable_cpus())

    def read_image(self, source: ImageSource) -> Picture | Unread:
        """One image, or why it could not be had."""
        notes: list[str] = []
        try:
            image = read_image(source.place, self.max_pixels, note=notes.append)
        except DataError as error:
            return Unread(source, error)
        return Picture(source=source, image=image, note=notes[0] if notes else None)

    def reader(self, source: VideoSource) -> VideoReader:
        """What reads one video."""
        return VideoReader(
            source=source,
            every=self.every,
            max_frames=self.max_frames,
            seconds=self.seconds,
            max_pixels=self.max_pixels,
        )


def read_sources(
    sources: Iterable[AnySource], settings: ReadSettings, ahead: int
) -> Generator[Picture | Unread, None, None]:
    """Each image and each wanted frame in order, and what could not be had, in its place.

    Args:
        sources: images and videos.
        settings: how they are read.
        ahead: images or frames that are decoded before their turn.
    """
    for _, neighbours in groupby(sources, type):
        group = list(neighbours)
        images = [source for source in group if isinstance(source, ImageSource)]
        yield from map_ahead(settings.read_image, images, settings.num_workers, ahead)
        for source in group:
            if isinstance(source, VideoSource):
                yield from _read_video(source, settings, ahead)


def _read_video(
    source: VideoSource, settings: ReadSettings, ahead: int
) -> Iterator[Picture | Unread]:
    pictures = _pictures(settings.reader(source))
    if settings.num_workers == 0:
        return pictures
    return iterate_ahead(pictures, ahead, drop=source.is_live)


def _pictures(reader: VideoReader) -> Iterator[Picture | Unread]:
    """The frames of a video and, at the end, what was wrong with it."""
    has_frames = False
    try:
        for frame in reader:
            has_frames = True
            yield Picture(
                source=reader.source,
                image=frame.image,
                frame=frame.number,
                time=frame.time,
                video=reader.facts,
            )
    except DataError as error:
        yield Unread(reader.source, error, has_frames)
    else:
        if reader.facts.fault is not None:
            yield Unread(reader.source, DataError(reader.facts.fault), is_rest=True)


def in_batches(items: Iterable[Item], batch_size: int) -> Iterator[Sequence[Item]]:
    """``items`` in their order, ``batch_size`` at a time."""
    iterator = iter(items)
    while batch := list(islice(iterator, batch_size)):
        yield batch
