# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet info``."""

from dataclasses import dataclass

from effdet.errors import UsageError
from effdet.flags import option


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Settings of ``effdet info``."""

    files: tuple[str, ...] = option(
        (), metavar="FILE", help="weights to look at (default: list the models)", positional=True
    )
    json: bool = option(False, help="print JSON for programs")
    build: bool = option(False, help="print which kernels are compiled, and for what")

    def __post_init__(self) -> None:
        if self.files and self.build:
            raise UsageError("give FILES or --build, not both")
