# SPDX-License-Identifier: Apache-2.0
"""How fast and how good are weights and exported files?"""

from effdet.benchmark.table import format_report
from effdet.benchmark.timing import Report, Row, Timing, benchmark

__all__ = ["Report", "Row", "Timing", "benchmark", "format_report"]
