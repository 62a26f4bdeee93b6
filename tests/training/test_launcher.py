# SPDX-License-Identifier: Apache-2.0
import pytest

from effdet.training import report_to_launcher


def test_without_a_store_every_error_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report_to_launcher("effdet: error: a")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert report_to_launcher("effdet: error: a")
