# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet report``."""

from dataclasses import dataclass

from effdet.errors import UsageError
from effdet.flags import option
from effdet.settings.values import refuse_changed, require


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of ``effdet report``."""

    runs: tuple[str, ...] = option(metavar="RUN", help="run folders of train.py", positional=True)
    output: str | None = option(
        None, metavar="FILE", help="page to write, which is replaced (default: RUN/report.html)"
    )
    data: str | None = option(
        None,
        metavar="DIR",
        help="data folder, where it is not what the run was started with any more",
    )
    evaluate: bool = option(
        False, help="validate best.pt now, for a run that has kept no detections"
    )
    device: str | None = option(
        None, help="of --evaluate: cpu, cuda or cuda:N (default: a GPU if there is one)"
    )
    score_threshold: float | None = option(
        None,
        help="score, 0-1, from which detections count as such among the errors (default: that of "
        "the best F1)",
    )
    pictures: int = option(8, help="images of each kind that are shown; 0: none")

    def __post_init__(self) -> None:
        require(self, ("pictures",), lambda v: v >= 0, "at least 0")
        if self.score_threshold is not None:
            require(self, ("score_threshold",), lambda v: 0 <= v <= 1, "in [0, 1]")
        if len(self.runs) > 1 and self.output is None:
            raise UsageError("a page about several runs belongs to none of them: give --output")
        if len(self.runs) > 1 and self.data is not None:
            raise UsageError("--data is of one run; give its folder alone")
        if not self.evaluate:
            refuse_changed(self, ("device",), "without --evaluate")
