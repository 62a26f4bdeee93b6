# SPDX-License-Identifier: Apache-2.0
"""``effdet benchmark``."""

import dataclasses
import shlex

from effdet import flags
from effdet.benchmark import benchmark, format_report
from effdet.export import typed
from effdet.names import json_text, say
from effdet.settings import BenchmarkConfig

DESCRIPTION = "Time weights and exported files: model, post-processing, image files; and their AP."


def run(argv: list[str]) -> None:
    """``effdet benchmark``."""
    config = flags.parse(BenchmarkConfig, argv, program="effdet benchmark", description=DESCRIPTION)
    report = benchmark(config)
    if config.json:
        print(json_text(dataclasses.asdict(report), indent=1))
        return
    say(format_report(report))
    fastest = min(report.rows, key=lambda row: row.timings[-1].ratio)
    words = ["--weights", *typed(fastest.weights), "--output", "out"]
    say(f"next: {shlex.join(['effdet', 'predict', 'YOUR_IMAGE.jpg', *words])}")
