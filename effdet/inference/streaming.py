# SPDX-License-Identifier: Apache-2.0
"""Predictions one after the other, of images, videos and cameras alike."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from effdet.inference.reading import Picture, ReadSettings, Unread, in_batches, read_sources
from effdet.inference.search import Search
from effdet.inference.sources import AnySource, VideoSource
from effdet.inference.video import import_av
from effdet.structures import Detections


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What was found in one image or frame.

    Attributes:
        file: where it is from.
        image: ``[3, H, W]`` uint8 RGB, upright.
        detections: boxes in pixels of ``image``.
        frame: number of a video's frame, from 0; None for an image.
        time: seconds from the video's first frame; None for an image.
    """

    file: str
    image: Tensor
    detections: Detections
    frame: int | None = None
    time: float | None = None


def stream(
    search: Search, sources: Iterable[AnySource], settings: ReadSettings
) -> Iterator[Prediction]:
    """The predictions of all sources in their order; see :meth:`Detector.stream`."""
    sources = list(sources)
    if any(isinstance(source, VideoSource) for source in sources):
        import_av()  # before anything is done
    return _stream(search, sources, settings)


def _stream(
    search: Search, sources: Iterable[AnySource], settings: ReadSettings
) -> Iterator[Prediction]:
    items = read_sources(sources, settings, 2 * search.batch_size)
    for item in find_in_all(search, items):
        if isinstance(item, Unread):
            raise item.error
        picture, detections = item
        yield Prediction(
            file=str(picture.source),
            image=picture.image,
            detections=detections,
            frame=picture.frame,
            time=picture.time,
        )


def find_in_all(
    search: Search, items: Iterable[Picture | Unread]
) -> Iterator[tuple[Picture, Detections] | Unread]:
    """Each picture with what was found in it; what is unread stays in its place."""
    for batch in in_batches(items, search.batch_size):
        pictures = [item for item in batch if isinstance(item, Picture)]
        found = iter(search([picture.image for picture in pictures]) if pictures else [])
        for item in batch:
            yield (item, next(found)) if isinstance(item, Picture) else item
