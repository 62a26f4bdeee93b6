# SPDX-License-Identifier: Apache-2.0
"""From images to detections."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from effdet.anchors import build_anchors
from effdet.config import ModelConfig
from effdet.data.transforms import letterbox, size_of
from effdet.errors import UsageError, nearest
from effdet.inference.reading import ReadSettings, in_batches
from effdet.inference.search import Search, build_views, mirror
from effdet.inference.sources import Source, expand_sources, read_image
from effdet.inference.streaming import Prediction, stream
from effdet.inference.tiles import TILE_OVERLAP
from effdet.postprocess import Postprocess, Postprocessing
from effdet.settings import FOR_PEOPLE, PostprocessConfig
from effdet.settings.values import require_tiles
from effdet.structures import ClassMap, Detections, Target

Size = tuple[int, int]


class Detector:
    """A model with all it needs to find objects in images.

    Attributes:
        model: images ``[B, 3, H, W]`` -> what :meth:`build_postprocess` takes, such as
            ``(cls_logits, box_deltas)``; in evaluation mode.
        config: size and normalisation of its input, and its anchors.
        class_map: what its classes are called.
        postprocess: how detections are made of its outputs where nothing else is asked for.
        channels_last: memory format of its inputs, as of its weights.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        class_map: ClassMap,
        postprocess: PostprocessConfig = FOR_PEOPLE,
        *,
        channels_last: bool = True,
    ) -> None:
        """Take ``model`` as it is, on its device, and set it to evaluation mode."""
        self.model = model.eval()
        self.config = config
        self.class_map = class_map
        self.postprocess = postprocess
        self.channels_last = channels_last
        self._anchors_of: dict[tuple[Size, torch.device], Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def own_threshold(self) -> float:
        """The score up to which it never has detections, whatever is asked for."""
        return 0.0

    def to(self, device: torch.device | str) -> "Detector":
        """Move the model; returns this same detector."""
        self.model.to(device)
        return self

    @overload
    def predict(
        self,
        source: Source,
        *,
        batch_size: int = 8,
        classes: Sequence[str] = (),
        tta: bool = False,
        tile: int = 0,
        tile_overlap: float = TILE_OVERLAP,
        **settings: Any,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        source: Sequence[Source],
        *,
        batch_size: int = 8,
        classes: Sequence[str] = (),
        tta: bool = False,
        tile: int = 0,
        tile_overlap: float = TILE_OVERLAP,
        **settings: Any,
    ) -> list[Detections]: ...

    def predict(
        self,
        source: Source | Sequence[Source],
        *,
        batch_size: int = 8,
        classes: Sequence[str] = (),
        tta: bool = False,
        tile: int = 0,
        tile_overlap: float = TILE_OVERLAP,
        **settings: Any,
    ) -> Detections | list[Detections]:
        """Detections of one image, or of each in a list.

        Args:
            source: file, https address, Pillow image or ``[3, H, W]`` uint8 RGB tensor; or a list
                of those.
            batch_size: images, or tiles of one, that go through the model at once.
            classes: names of the classes that are wanted; all if empty.
            tta: test-time augmentation, see :func:`~effdet.inference.search.build_views`.
            tile: side in pixels of tiles that are looked at besides the whole image, for small
                objects in large images, see :mod:`effdet.inference.tiles`; 0 for none.
            tile_overlap: share of a tile that the next one shows again, 0-0.9; objects up to that
                size are whole in one tile at least.
            settings: fields of :class:`PostprocessConfig` for this call, such as
                ``score_threshold=0.5``, ``max_detections=10`` or ``nms="gaussian"``.

        Returns:
            Detections on the CPU in pixels of the image, after a file's EXIF rotation.

        Raises:
            DataError: for a file or address that cannot be had or decoded.
            UsageError: for an unknown class or setting.
        """
        if isinstance(source, str | Path | Tensor) or not isinstance(source, Sequence):
            source, is_one = [source], True
        else:
            is_one = False
        search = self.build_search(
            classes, batch_size=batch_size, tta=tta, tile=tile, tile_overlap=tile_overlap,
            **settings,
        )  # fmt: skip
        found: list[Detections] = []
        for batch in in_batches(source, batch_size):
            found += search([read_image(item) for item in batch])
        return found[0] if is_one else found

    def stream(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        batch_size: int = 1,
        read: ReadSettings | None = None,
        classes: Sequence[str] = (),
        **options: Any,
    ) -> Iterator[Prediction]:
        """Detections of each image and each frame of a video, stream or camera, as they come.

        Nothing is kept: a video of any length takes the memory of a few frames, which threads
        decode while the model works.

        Args:
            source: words as :func:`~effdet.inference.sources.expand_sources` takes, such as
                ``"clip.mp4"``, ``"webcam:0"``, ``"rtsp://..."`` or a folder.
            batch_size: frames that go through the model at once; a camera waits for so many.
            read: such as ``ReadSettings(every=5, max_frames=100)``.
            classes: names of the classes that are wanted; all if empty.
            options: ``tta``, ``tile``, ``tile_overlap`` and settings, as of :meth:`predict`.

        Yields:
            :class:`Prediction`: the pixels, where they are from, and what was found in them.

        Raises:
            DataError: for an image that cannot be read; of a video that ends early or is damaged,
                after all of its frames.
            UsageError: for an unknown class or setting, and without the package for videos.
        """
        search = self.build_search(classes, batch_size=batch_size, **options)
        words = [source] if isinstance(source, str | Path) else source
        return stream(search, expand_sources(words), read or ReadSettings())

    def build_search(
        self,
        classes: Sequence[str] = (),
        *,
        batch_size: int = 8,
        tta: bool = False,
        tile: int = 0,
        tile_overlap: float = TILE_OVERLAP,
        **settings: Any,
    ) -> Search:
        """How :meth:`predict` looks at images, for many of them."""
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        require_tiles(tile, tile_overlap)
        process = self.build_postprocess(classes, **settings)
        return Search(
            detect=self._detect,
            process=process,
            views=build_views(self.config.image_size, process, self._process, tta),
            tile=tile,
            tile_overlap=tile_overlap,
            batch_size=batch_size,
        )

    def build_postprocess(self, classes: Sequence[str] = (), **settings: Any) -> Postprocessing:
        """This detector's post-processing with the changes of :meth:`predict`."""
        known = [item.name for item in fields(PostprocessConfig)]
        for name in settings:
            if name not in known:
                raise UsageError(f"unknown setting {name!r}{nearest(name, known)}")
        class_map = _only(self.class_map, classes) if classes else self.class_map
        return self._process(self.config.image_size, self._settle(settings), class_map)

    def _settle(self, asked: Mapping[str, Any]) -> PostprocessConfig:
        """The settings where ``asked`` is wanted."""
        return replace(self.postprocess, **asked)

    def _process(
        self, size: Size, config: PostprocessConfig, class_map: ClassMap | None
    ) -> Postprocessing:
        """What makes detections of the outputs for inputs of ``size``."""
        return Postprocess(anchors=self._anchors(size), config=config, class_map=class_map)

    def detect(self, images: Sequence[Tensor], process: Postprocessing) -> list[Detections]:
        """Detections of ``[3, H, W]`` uint8 images of any sizes, as one batch, on the CPU."""
        return self._detect(images, process, self.config.image_size, False)

    @torch.no_grad()
    def _detect(
        self, images: Sequence[Tensor], process: Postprocessing, size: Size, flip: bool
    ) -> list[Detections]:
        """The same at an input size ``(height, width)``, of the mirrored images where wanted."""
        config = self.config
        inputs, targets = [], []
        for image in images:
            seen = image.flip(-1) if flip else image
            pixels, scale = letterbox(seen, size, config.mean, config.std)
            inputs.append(pixels)
            targets.append(Target.without_boxes(size_of(image), scale))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        batch = torch.stack(inputs).to(self.device, memory_format=layout)
        found = [one.to("cpu") for one in process(*self.model(batch), targets)]
        if not flip:
            return found
        return [mirror(one, size_of(image)[1]) for one, image in zip(found, images, strict=True)]

    def _anchors(self, size: Size) -> Tensor:
        """``[A, 4]`` of an input size, where the model is; those of the last sizes are kept."""
        key = (size, self.device)
        if key not in self._anchors_of:
            self._anchors_of[key] = build_anchors(self.config, size, self.device)
        return self._anchors_of[key]


def _only(class_map: ClassMap, names: Sequence[str]) -> ClassMap:
    """The same slots with only the classes called ``names``."""
    wanted = set(class_map.indices([_spelled(name, class_map) for name in names]))
    return ClassMap(
        names=tuple(n if i in wanted else None for i, n in enumerate(class_map.names)),
        category_ids=tuple(
            c if i in wanted else None for i, c in enumerate(class_map.category_ids)
        ),
    )


def _spelled(name: str, class_map: ClassMap) -> str:
    """``name`` in the case of the one class that is called so; else as it is."""
    alike = {known for known in class_map.names if known and known.casefold() == name.casefold()}
    return alike.pop() if len(alike) == 1 else name
