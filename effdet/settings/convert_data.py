# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet convert-data``."""

from dataclasses import dataclass
from typing import Literal

from effdet.errors import SettingError, UsageError
from effdet.flags import option
from effdet.settings import shared_help

WrittenFormat = Literal["coco", "voc", "yolo"]
ImageFiles = Literal["copy", "link", "none"]


@dataclass(frozen=True, kw_only=True)
class ConvertDataConfig:
    """Settings of ``effdet convert-data``."""

    source: str = option(help=shared_help.DATA, positional=True)
    output: str = option(help="folder to create", positional=True)
    to: WrittenFormat = option(help="format to write")
    images: ImageFiles = option(
        "copy", help="copy the images, make hard links to them, or write annotations alone"
    )
    val_share: float = option(
        0.0, help="part of the training images, 0-1, to set apart as val where there is none"
    )
    seed: int = option(0, help="of the choice of these images")
    follow_links: bool = option(False, help=shared_help.FOLLOW_LINKS)

    def __post_init__(self) -> None:
        if not self.output:
            raise UsageError("OUTPUT is empty; name a folder to create")
        if not 0 <= self.val_share < 1:
            raise SettingError("val_share", f"must be in [0, 1), got {self.val_share:g}")
        if self.seed < 0:
            raise SettingError("seed", f"must be 0 or more, got {self.seed}")
