# SPDX-License-Identifier: Apache-2.0
import pytest
from torch.distributed import TCPStore

from effdet import distributed
from effdet.training.board import Board


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The launcher's."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    words = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | words).items():
        monkeypatch.setenv(name, value)
    return store


def connected() -> Board:
    board = Board()
    board.connect()
    assert not board.gone
    return board


def test_what_one_leaves_another_finds(store: TCPStore) -> None:
    one, other = connected(), connected()
    one.put("a", {"b": [1, 2.5, None]})
    other.wait(60, lambda: other.get("a") is not None)  # the store answers no writer
    assert other.get("a") == {"b": [1, 2.5, None]}
    assert other.get("c") is None


def test_the_first_word_stays(store: TCPStore) -> None:
    one, other = connected(), connected()
    assert one.put_first("end", {"by": 1}) == {"by": 1}
    assert other.put_first("end", {"by": 2}) == {"by": 1}
    assert (one.claim("said"), other.claim("said"), one.claim("said")) == (True, False, False)


def test_a_restart_finds_nothing_of_the_start_before(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = connected()
    board.put("a", 1)
    board.wait(60, lambda: board.get("a") is not None)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert connected().get("a") is None
    connected().put("a", 1)
    monkeypatch.setattr(distributed, "start_name", lambda: "third")
    assert connected().get("a") is None


def test_nodes_that_count_restarts_otherwise_find_each_other(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "start_name", lambda: "second")
    board = connected()
    board.put("a", 1)
    board.wait(60, lambda: board.get("a") is not None)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert connected().get("a") == 1


def test_without_a_store_nothing_is_left_and_nobody_waits() -> None:
    board = Board()
    board.connect()
    assert board.gone
    board.put("a", 1)
    assert board.get("a") is None
    assert board.put_first("a", {}) is None
    assert board.claim("a")
    board.wait(60, lambda: False)
