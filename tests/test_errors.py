# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest

from effdet.errors import (
    FEW,
    DataError,
    EffdetError,
    ExportError,
    UsageError,
    WeightsError,
    nearest,
    run,
)


def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EffdetError("x"), 1),
        (OSError(28, "No space left on device"), 1),
        (UsageError("x"), 2),
        (DataError("x"), 3),
        (WeightsError("x"), 4),
        (ExportError("x"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda: raising(error), "prog")
    assert caught.value.code == code


def test_an_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(lambda: raising(DataError("a.json:\n  no boxes\n")), "prog")
    captured = capsys.readouterr()
    assert captured.err == "prog: error: a.json: no boxes\n"
    assert captured.out == ""


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_debug_adds_the_traceback(
    way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "--debug"] if way == "flag" else ["prog"])
    monkeypatch.setenv("EFFDET_DEBUG", "0" if way == "flag" else "1")
    with pytest.raises(SystemExit):
        run(lambda: raising(DataError("no boxes")), "prog")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "prog: error: no boxes"


def test_our_own_bugs_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: raising(ZeroDivisionError()), "prog")


def test_success_returns() -> None:
    done: list[int] = []
    run(lambda: done.append(1), "prog")
    assert done == [1]


def test_input_errors_are_value_errors() -> None:
    # Callers of the library need not know our classes.
    for kind in (UsageError, DataError, WeightsError):
        assert issubclass(kind, ValueError)
        assert issubclass(kind, EffdetError)


def test_the_nearest_names_are_offered() -> None:
    assert nearest("efficientdet_d00", ["efficientdet_d0", "x"]) == (
        "; did you mean efficientdet_d0?"
    )
    assert nearest("cat", ["cats", "bat", "zebra"]) == "; did you mean cats or bat?"
    assert nearest("rbc", ["RBC", "WBC", "Platelets"]).startswith("; did you mean RBC")
    assert nearest("zzz", ["cat", "dog"]) == "; known: cat, dog"
    assert nearest("zzz", ["cat", "dog"], told=True) == ""
    assert nearest("cats", ["cat", "dog"], told=True) == "; did you mean cat?"
    assert nearest("zzz", map(str, range(FEW + 1))) == nearest("zzz", []) == ""


def test_a_reader_that_stops_early_ends_the_program_quietly() -> None:
    code = (
        "from effdet.errors import run\n"
        "run(lambda: [print('line ' * 100, flush=True) for _ in range(10000)], 'prog')"
    )
    line = f'"{sys.executable}" -c "{code}" | head -n 1; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == 141  # as a shell's own programs
    assert done.stderr == ""
    assert done.stdout.startswith("line line")
