# SPDX-License-Identifier: Apache-2.0
"""``metrics.csv``: a line an epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet.files import replace_text
from effdet.names import csv_value

# fmt: off
FIGURES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)
# fmt: on
"""COCO's twelve figures, in the order of COCOeval's ``stats``."""

VALIDATED = ("weights", "AP_ema", "AP_raw")
"""Whose figures they are, and the AP of all weights that were validated."""


def table_row(
    epoch: int, values: Mapping[str, Any], figures: Mapping[str, float | str | None]
) -> dict[str, Any]:
    """A line of the table; it has all figures, None where they were not measured."""
    columns = dict.fromkeys((*FIGURES, *VALIDATED), None)
    return {"epoch": epoch, **values, **columns, **figures}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the table at ``path`` by one of ``rows``, in one go; without rows there is no file.

    Columns are all that any row has: the figures last, the others in the order of their first row.

    Raises:
        OSError: it cannot be written; the old table is still there.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    last = (*FIGURES, *VALIDATED)
    columns = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in last]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*columns, *last), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_value(value) for name, value in row.items()} for row in rows)
    replace_text(path, text.getvalue())
