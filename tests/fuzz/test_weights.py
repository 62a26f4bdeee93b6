# SPDX-License-Identifier: Apache-2.0
"""No weights file runs anything, costs much or gets in by any door unless it is right."""

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import weights
from tests.fuzz.forked import in_child
from tests.fuzz.weight_doors import (
    MEMORY,
    READERS,
    SECONDS,
    Doors,
    fault,
    hostile_files,
    hostile_states,
    refusals,
)
from tests.fuzz.weights import mutations, shortfalls
from tests.tiny import tiny_model
from tests.weights.formats.hostile_pickles import CANARY


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hostile")
    with tiny_model(), pytest.MonkeyPatch.context() as patch:
        (folder / "work").mkdir()
        patch.chdir(folder / "work")
        yield folder


@pytest.fixture(scope="module")
def doors(place: Path) -> Doors:
    (place / "doors").mkdir()
    return Doors(place / "doors")


@pytest.fixture(scope="module")
def files(place: Path, doors: Doors) -> dict[str, Path]:
    pytest.importorskip("h5py", reason="h5py is not installed")
    return hostile_files(doors, place / "files")


@pytest.fixture(scope="module")
def some_files(place: Path, doors: Doors) -> dict[str, Path]:
    pytest.importorskip("h5py", reason="h5py is not installed")
    return hostile_files(doors, place / "some", every=4)


def check(doors: Doors, door: str, files: dict[str, Path]) -> None:
    found = refusals(doors, door, files)
    print(f"{door}: {len(files)} kinds, {len(found.faults)} wrong")
    assert found.faults == {}
    assert not Path(CANARY).exists()


ALL = ["info", "convert", "predict", "average", "validate", "weights", "backbone", "resume"]


@pytest.mark.parametrize("door", ALL)
def test_a_good_file_gets_through_and_no_hostile_one(
    door: str, doors: Doors, some_files: dict[str, Path]
) -> None:
    """Here one in 32 kinds at each door; the slow test brings every kind to every door."""
    check(doors, door, dict(list(some_files.items())[ALL.index(door) :: len(ALL)]))
    assert doors.succeed(door) == ""


@pytest.mark.slow
@pytest.mark.parametrize("door", ALL)
def test_no_hostile_file_gets_through_any_door(
    door: str, doors: Doors, files: dict[str, Path]
) -> None:
    check(doors, door, files)


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_a_hostile_training_state_is_refused(doors: Doors, place: Path, every: int) -> None:
    """Even one with a right digest; the run that it is of stays as it was."""
    check(doors, "resume", hostile_states(doors, place / f"states{every}", every))


def test_what_a_door_lets_in_or_pays_too_much_for_is_found(doors: Doors, place: Path) -> None:
    missing = place / "missing.pt"
    start, outcome = doors.begin("info"), in_child(lambda: doors.enter("info", missing))
    assert fault(outcome, start, missing, "info") == ""
    assert fault(outcome, start, place / "other.pt", "info").startswith("4 ")
    assert fault(outcome, dataclasses.replace(start, seconds=-SECONDS), missing, "info") != ""
    assert fault(outcome, dataclasses.replace(start, memory=-2 * MEMORY), missing, "info") != ""
    assert fault(in_child(lambda: "0 "), start, missing, "predict") == "0 "
    files = {"good": doors.good}
    assert list(refusals(doors, "predict", files).faults) == ["predict: good"]


@pytest.mark.slow
def test_the_files_are_refused_by_what_is_behind_the_doors_too(
    files: dict[str, Path],
) -> None:
    def read(path: Path) -> str:
        from effdet.errors import WeightsError

        for name, reader in READERS.items():
            try:
                reader(path)
            except WeightsError as error:
                if str(path.with_suffix("")) not in str(error):
                    return f"{name}: {error}"
            except Exception as error:
                return f"{name}: UNEXPECTED {error!r}"
        return ""

    faults = {}
    for kind, path in files.items():
        outcome = in_child(lambda path=path: read(path))  # type: ignore[misc]
        if outcome.text or outcome.memory > MEMORY:
            faults[kind] = outcome
    assert faults == {}


@pytest.mark.parametrize("cases", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_refused_or_is_what_it_says(cases: int) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    figures = mutations(cases, seed=cases)
    print(figures)
    assert figures["faults"] == []
    assert shortfalls(figures) == []
    assert figures["memory_mb"] < 256
    assert figures["longest_s"] < 2


@pytest.mark.parametrize("outcome", ["read", "refused"])
def test_a_reader_that_always_says_the_same_is_found(
    outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    monkeypatch.setattr(weights, "opened", lambda *_: outcome)
    figures = mutations(40, seed=1)
    assert figures["faults"] == []
    assert len(shortfalls(figures)) >= len(weights.FORMS)


def test_a_death_and_a_hang_cost_one_case_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 cases one dies, one hangs and one raises; the others are counted."""
    pytest.importorskip("h5py", reason="h5py is not installed")
    monkeypatch.setattr(weights, "HANG_SECONDS", 5.0)
    sent = weights._form

    def form(goods: object, seed: int, case: int) -> object:
        if os.getpid() != here:
            if case == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            if case == 11:
                signal.pause()
            if case == 13:
                raise ValueError("a" * 5000)
        return sent(goods, seed, case)  # type: ignore[arg-type]

    here = os.getpid()
    monkeypatch.setattr(weights, "_form", form)
    monkeypatch.setattr(weights, "opened", lambda *_: "refused")
    figures = mutations(30, seed=3)
    assert sum(figures["counts"].values()) == 30
    assert sum(n for c, n in figures["counts"].items() if c.endswith("FAULT")) == 3
    died, hung, raised = figures["faults"]
    assert died == "case 7: DIED with status 9"
    assert hung == "case 11: HUNG for 5 s"
    assert raised == f"case 13: UNEXPECTED ValueError('{'a' * 5000}')"


def test_a_child_says_all_that_it_has_to_say() -> None:
    text = json.dumps(["fault"] * 100_000)
    assert in_child(lambda: text).text == text
