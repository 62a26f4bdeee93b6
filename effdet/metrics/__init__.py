# SPDX-License-Identifier: Apache-2.0
"""What a run says: on the console, in its log files and to trackers of experiments."""

from effdet.metrics.run_log import RunLog
from effdet.metrics.table import FIGURES, write_table

__all__ = ["FIGURES", "RunLog", "write_table"]
