# SPDX-License-Identifier: Apache-2.0
"""``effdet report``."""

from pathlib import Path

from effdet import flags
from effdet.errors import UsageError
from effdet.files import check_output
from effdet.names import say
from effdet.page import BEGINS
from effdet.settings.report import ReportConfig

DESCRIPTION = "Look at training runs: curves, errors and pictures on one page of HTML."

PAGE = "report.html"


def run(argv: list[str]) -> None:
    """``effdet report``."""
    config = flags.parse(ReportConfig, argv, program="effdet report", description=DESCRIPTION)
    from effdet.report.build import build_comparison, build_page, next_command
    from effdet.report.evaluate import evaluate_run
    from effdet.report.run import read_run

    if len({Path(folder).resolve() for folder in config.runs}) < len(config.runs):
        raise UsageError("a run is named twice; name each once")
    runs = [read_run(folder) for folder in config.runs]
    output = Path(config.output) if config.output else runs[0].folder / PAGE
    check_output(output, begins=BEGINS)
    if config.evaluate:
        for record in runs:
            evaluate_run(record, data=config.data, device=config.device)
        runs = [read_run(folder) for folder in config.runs]
    page = build_page(runs[0], config) if len(runs) == 1 else build_comparison(runs, config)
    page.write(output)
    say(f"report in {output}")
    best = max(runs, key=lambda record: record.best_ap)
    say(f"next: {next_command(best, config.data)}")
