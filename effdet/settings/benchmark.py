# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet benchmark``."""

from dataclasses import dataclass

from effdet.errors import SettingError, UsageError
from effdet.flags import option
from effdet.settings import shared_help
from effdet.settings.values import refuse_changed, require


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Settings of ``effdet benchmark``."""

    weights: tuple[str, ...] = option(
        help="weights and exported files; ratios are to the first", positional=True
    )
    data: str | None = option(
        None,
        metavar="DIR",
        help="data set: its images are taken, and the AP is measured on all of them",
    )
    split: str = option("val", metavar="NAME", help="with --data: split of it")
    images: str | None = option(
        None, metavar="IMAGES", help="folder or pattern of images (default: drawn pictures as JPEG)"
    )
    count: int = option(16, help="images that are timed, in turn")
    batch_size: tuple[int, ...] = option((1,), help="images a call, one or several sizes")
    warmup: int = option(3, help="calls before the clock runs")
    rounds: int = option(20, help="timed calls of each kind; all files take turns in each")
    threads: int | None = option(None, help="threads of each runtime (default: torch's own number)")
    use_ema: bool = option(True, help="take the averaged weights where a file has them")
    trust_code: bool = option(False, help=shared_help.TRUST_CODE)
    device: str | None = option(
        None, help="of weights: cpu, cuda or cuda:N (default: a GPU if there is one)"
    )
    json: bool = option(False, help="print JSON for programs")

    def __post_init__(self) -> None:
        require(self, ("count", "rounds"), lambda v: v > 0, "above 0")
        require(self, ("warmup",), lambda v: v >= 0, "at least 0")
        for size in self.batch_size:
            if size < 1:
                raise SettingError("batch_size", f"must be at least 1, got {size}")
        if self.threads is not None:
            require(self, ("threads",), lambda v: 0 < v <= 1024, "in [1, 1024]")
        if self.data is not None and self.images is not None:
            raise UsageError("give --data or --images, not both")
        if self.data is None:
            refuse_changed(self, ("split",), "without --data")
