# SPDX-License-Identifier: Apache-2.0
import csv
from pathlib import Path

from effdet.metrics import FIGURES, write_table
from effdet.metrics.table import table_row


def test_figures_are_cocos_in_cocos_order() -> None:
    assert FIGURES == (
        "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
    )  # fmt: skip


def test_a_table_has_a_line_an_epoch_and_the_figures_last(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [
        table_row(1, {"loss": 0.5}, {}),
        table_row(2, {"loss": 0.25, "skipped": 3}, {"AP": 0.5, "weights": "ema", "AP_ema": 0.5}),
    ]
    write_table(path, rows)
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(
        ("epoch", "loss", "skipped", *FIGURES, "weights", "AP_ema", "AP_raw")
    )
    found = list(csv.DictReader(lines))
    assert [row["loss"] for row in found] == ["0.5", "0.25"]
    assert [row["skipped"] for row in found] == ["", "3"]
    assert [row["AP"] for row in found] == ["", "0.5"]
    assert (found[1]["weights"], found[1]["AP_ema"], found[1]["AP_raw"]) == ("ema", "0.5", "")


def test_a_row_has_a_place_for_every_figure() -> None:
    row = table_row(3, {"loss": 1.0}, {})
    assert row == {"epoch": 3, "loss": 1.0} | dict.fromkeys(
        (*FIGURES, "weights", "AP_ema", "AP_raw")
    )


def test_without_epochs_there_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_table(path, [])
    write_table(path, [table_row(1, {}, {})])
    assert path.exists()
    write_table(path, [])
    assert list(tmp_path.iterdir()) == []
