# SPDX-License-Identifier: Apache-2.0
"""Sizes of training images that change during a run: drawn for each step, or growing in stages."""

import math

import numpy as np

from effdet.config import MIN_IMAGE_SIZE
from effdet.data.transforms import Size
from effdet.errors import UsageError

MULTIPLE = 32
"""Sides other than the model's own are multiples of this many pixels."""

FIRST_PROGRESSIVE_SIZE = 128
"""Pixels from which EfficientNetV2 lets images grow."""

_SIZE = 3  # first word of the seeds, beside those of order and samples


class ImageSizes:
    """The size of all images of a step, a pure function of epoch and position in the epoch.

    With ``multi_scale`` both sides are multiplied by a factor drawn evenly from its range for
    each step. With ``stages`` above 1 the images grow as in EfficientNetV2 (arXiv:2104.00298,
    section 4; google/automl ``efficientnetv2/main.py``): the run is cut into stages of equal
    length, and in stage k = 0, 1, ... the longer side is
    ``int(128 + (side - 128) * (k + 1) / stages)``, the other side in proportion. Sides are rounded
    to multiples of 32 and are at least 64; the last stage has the full size as it is. With neither,
    every image has the full size.

    The first step of a run (epoch 1, position 0) has the :attr:`largest` size whatever was drawn,
    so that a batch that does not fit into memory is known at once and not after hours.

    Attributes:
        largest: ``(height, width)`` in pixels that no step exceeds.
    """

    def __init__(
        self,
        image_size: Size,
        *,
        epochs: int,
        multi_scale: tuple[float, float] | None = None,
        stages: int = 1,
        seed: int = 0,
    ) -> None:
        """Plan the sizes of a run.

        Args:
            image_size: full ``(height, width)`` in pixels.
            epochs: length of the run; later ones have the size of its last stage.
            multi_scale: smallest and largest factor on ``image_size``.
            stages: number of stages in which the images grow.
            seed: of the factors.

        Raises:
            UsageError: for a range, a number of stages or a pair of both that cannot work.
        """
        if multi_scale is not None and not 0 < multi_scale[0] <= multi_scale[1] < math.inf:
            raise UsageError(
                "multi_scale must be two factors, above 0 and rising, got "
                f"{multi_scale[0]} {multi_scale[1]}"
            )
        if multi_scale is not None and stages > 1:
            raise UsageError("multi_scale and progressive stages cannot be combined; give one")
        if not 1 <= stages <= epochs:
            raise UsageError(f"progressive must be from 1 to the {epochs} epochs, got {stages}")
        self.image_size, self.epochs, self.seed = image_size, epochs, seed
        self.multi_scale, self.stages = multi_scale, stages
        self.largest = image_size if multi_scale is None else self._scaled(multi_scale[1])

    def __call__(self, epoch: int, position: int) -> Size:
        """``(height, width)`` in pixels of the images of one step.

        Args:
            epoch: counted from 1.
            position: place of the step's first image in the order of the epoch.
        """
        if epoch == 1 and position == 0:
            return self.largest
        if self.multi_scale is not None:
            draws = np.random.default_rng([_SIZE, self.seed, epoch, position])
            return self._scaled(draws.uniform(*self.multi_scale))
        return self._of_stage(min((epoch - 1) * self.stages // self.epochs, self.stages - 1))

    def _of_stage(self, stage: int) -> Size:
        if stage == self.stages - 1:
            return self.image_size
        side = max(self.image_size)
        first = min(FIRST_PROGRESSIVE_SIZE, side)
        return self._scaled(int(first + (side - first) * (stage + 1) / self.stages) / side)

    def _scaled(self, factor: float) -> Size:
        height, width = (
            max(MIN_IMAGE_SIZE, int(side * factor / MULTIPLE + 0.5) * MULTIPLE)
            for side in self.image_size
        )
        return height, width
