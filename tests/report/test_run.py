# SPDX-License-Identifier: Apache-2.0
"""A run folder is read whatever state it was left in."""

import json
from pathlib import Path

import pytest

from effdet.errors import UsageError
from effdet.report.overview import differing_settings, duration, summary_facts
from effdet.report.run import RunRecord, read_run
from effdet.report.training import training_figures


def folder_of(tmp_path: Path, **files: str) -> Path:
    for name, text in {"config_yaml": "model: d0\nlr: 0.1\n", **files}.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return tmp_path


def line(epoch: int, step: int, loss: float) -> str:
    entry = {"type": "LOG", "step": [epoch, step], "data": {"loss": loss}}
    return f"DLLL {json.dumps(entry)}\n"


def test_numbers_texts_and_empty_cells_of_the_table(tmp_path: Path) -> None:
    run = read_run(
        folder_of(tmp_path, metrics_csv="epoch,loss,AP,weights\n1,2.5,,ema\n2,nan,0.5,\n")
    )
    assert run.epochs[0] == {"epoch": 1.0, "loss": 2.5, "AP": None, "weights": "ema"}
    assert run.best_epoch["epoch"] == 2.0
    assert run.best_ap == 0.5
    assert run.settings == {"model": "d0", "lr": 0.1}


def test_a_step_done_again_counts_as_it_was_done_last_and_torn_lines_do_not(
    tmp_path: Path,
) -> None:
    log = line(1, 10, 3.0) + line(1, 20, 2.0) + line(1, 20, 1.0) + '{"type": "LOG", "st'
    run = read_run(folder_of(tmp_path, log_jsonl=log))
    assert [(e, s, v["loss"]) for e, s, v in run.steps] == [(1, 10, 3.0), (1, 20, 1.0)]


def test_damaged_files_are_noted_and_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, environment_json="{", status_json="[]", metrics_csv="\x00\xff")
    (folder / "report").mkdir()
    (folder / "report" / "best.json").write_text("[]")
    (folder / "report" / "labels.json").write_text('{"train": []}')
    run = read_run(folder)
    assert (run.starts, run.status, run.best) == ([], {}, {})
    for name in ("environment.json", "status.json", "report/best.json", "report/labels.json"):
        assert any(note.startswith(f"{name} is left out") for note in run.notes), name
    assert "best AP" not in summary_facts(run)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run folder .* train.py made"):
        read_run(tmp_path)


def test_curves_are_by_epoch_and_only_of_what_there_is(tmp_path: Path) -> None:
    log = "".join(line(epoch, step, 1.0) for epoch in (1, 2) for step in (5, 10))
    table = "epoch,loss,AP,AP50,AP75\n1,1,,,\n2,1,0.5,0.7,0.4\n"
    run = read_run(folder_of(tmp_path, log_jsonl=log, metrics_csv=table))
    captions = [figure.caption for figure in training_figures([run])]
    assert len(captions) == 2  # the loss and AP
    svg = training_figures([run])[0].svg
    assert [f"loss: 1 at {x}" in svg for x in ("0.5", "1", "1.5", "2")] == [True] * 4


def test_a_logged_step_stands_at_its_part_of_the_epoch(tmp_path: Path) -> None:
    log = "".join(line(epoch, step, 1.0) for epoch in (1, 2, 3) for step in (20, 40))
    table = "epoch,steps,loss\n1,50,1\n2,80,1\n"  # the third has not ended
    status = '{"state": "training", "epoch": 3, "step": 45, "steps": 100}'
    files = {"log_jsonl": log, "metrics_csv": table, "status_json": status}
    svg = training_figures([read_run(folder_of(tmp_path, **files))])[0].svg
    for place in ("0.4", "0.8", "1.25", "1.5", "2.2", "2.4"):
        assert f"loss: 1 at {place}<" in svg, place


def test_long_curves_are_thinned_and_noisy_ones_smoothed(tmp_path: Path) -> None:
    log = "".join(line(1, step, float(step % 2)) for step in range(1, 5001))
    (figure,) = training_figures([read_run(folder_of(tmp_path, log_jsonl=log))])
    assert len(figure.svg) < 120_000
    assert "faint" in figure.svg


def test_a_run_without_logged_steps_is_drawn_by_epochs(tmp_path: Path) -> None:
    run = read_run(folder_of(tmp_path, metrics_csv="epoch,loss\n1,3\n2,2\n3,1\n"))
    assert "loss: 2 at 2" in training_figures([run])[0].svg


def test_settings_that_differ_between_runs() -> None:
    runs = [
        RunRecord(folder=Path("a"), name="a", settings={"lr": 0.1, "epochs": 3, "output": "a"}),
        RunRecord(folder=Path("b"), name="b", settings={"lr": 0.2, "epochs": 3, "output": "b"}),
        RunRecord(folder=Path("c"), name="c", settings={"epochs": 3, "size": [1, 2]}),
    ]
    assert differing_settings(runs) == [
        ["lr", "0.1", "0.2", None],
        ["size", None, None, "1 2"],
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("status.json", "[" * 200_000),
        ("log.jsonl", "[" * 200_000 + "\n"),
        ("log.jsonl", '{"step": [1, 1], "data": {"loss": 1' + "0" * 400 + "}}\n"),
        ("metrics.csv", 'epoch,loss\n1,"' + "9" * 200_000 + '"\n'),
    ],
    ids=["deep", "deep line", "huge number", "long field"],
)
def test_no_damage_keeps_the_rest_from_being_shown(name: str, text: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, **{name.replace(".", "_"): text})
    run = read_run(folder)
    assert run.settings
    training_figures([run])
