# SPDX-License-Identifier: Apache-2.0
"""Settings of the programs that read a data set: what may be wrong with it."""

from dataclasses import dataclass

from effdet.flags import option
from effdet.settings import shared_help
from effdet.settings.values import MAX_PIXELS, require, require_pixels


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is repaired, replaced or refused in a data set."""

    strict_data: bool = option(
        False,
        help="refuse what would be repaired: boxes that stick out or have no area, missing fields",
        group="what is wrong with the data",
    )
    follow_links: bool = option(False, help=shared_help.FOLLOW_LINKS)
    max_pixels: int = option(MAX_PIXELS, help=shared_help.PIXELS)
    max_bad_images: float = option(
        0.01,
        help="part of the images, 0-1, that may be bad: replaced in training, missed in validation",
    )

    def __post_init__(self) -> None:
        require_pixels(self.max_pixels)
        require(self, ("max_bad_images",), lambda v: 0 <= v <= 1, "in [0, 1]")
