# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from effdet.training import report_to_launcher, with_errors_for_launcher


def test_without_a_store_every_error_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report_to_launcher("effdet: error: a")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert report_to_launcher("effdet: error: a")


def test_an_exception_is_left_for_the_launcher_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced is whole at any moment; one that is written in place is not."""
    file, seen = tmp_path / "error.json", tmp_path / "seen"
    file.write_text("before")
    seen.hardlink_to(file)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))

    def fail() -> None:
        raise RuntimeError("a collective failed")

    with pytest.raises(RuntimeError):
        with_errors_for_launcher(fail)()
    assert seen.read_text() == "before"
    message = json.loads(file.read_text())["message"]
    assert message["message"] == "RuntimeError: a collective failed"
    assert "in fail" in message["extraInfo"]["py_callstack"]
    assert int(message["extraInfo"]["timestamp"]) > 0


@pytest.mark.parametrize("file", [None, ""])
def test_without_a_launcher_an_exception_stays_what_it_is(
    file: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    if file is not None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", file)

    def fail() -> None:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        with_errors_for_launcher(fail)()


@pytest.mark.parametrize("program", ["train.py", "validate.py"])
def test_programs_that_torchrun_starts_leave_their_errors_so(program: str) -> None:
    text = (Path(__file__).parents[2] / program).read_text()
    assert f'run(with_errors_for_launcher(main), "{program}", report_to_launcher)' in text
