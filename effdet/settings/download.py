# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet download``."""

from dataclasses import dataclass
from typing import Literal

from effdet.errors import UsageError
from effdet.flags import option

DatasetPart = Literal["train", "val", "annotations"]
DATASET = "coco2017"


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Settings of ``effdet download``."""

    names: tuple[str, ...] = option(
        (),
        metavar="NAME",
        help="public releases of weights to fetch, or coco2017: the data set",
        positional=True,
    )
    list: bool = option(False, help="list the public releases")
    output: str | None = option(None, metavar="DIR", help="folder for coco2017 (default: coco2017)")
    parts: tuple[DatasetPart, ...] = option(
        (), help="parts of coco2017: train (20 GB), val, annotations (default: all)"
    )

    def __post_init__(self) -> None:
        if not self.names and not self.list:
            raise UsageError("give NAMES of public releases, coco2017, or --list to see them")
        if DATASET not in self.names and (self.output is not None or self.parts):
            raise UsageError(f"--output and --parts are for {DATASET}; weights go to the cache")
