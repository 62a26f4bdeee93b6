# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet average``."""

from dataclasses import dataclass

from effdet.flags import option
from effdet.settings.values import require


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Settings of ``effdet average``."""

    checkpoint: tuple[str, ...] = option(help="checkpoints of one model", positional=True)
    output: str = option(metavar="FILE", help="checkpoint to write")
    best: int = option(0, help="only the so many with the highest AP, 0: all")
    use_ema: bool = option(True, help="use the averaged weights where a file has them")

    def __post_init__(self) -> None:
        require(self, ("best",), lambda v: v == 0 or v >= 2, "2 or more, or 0 for all")
