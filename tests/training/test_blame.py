# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from effdet.errors import DataError
from effdet.training.blame import Verdict, exit_code_of_cause, is_broken_collective, judge
from effdet.training.posts import Peer, Post


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError("[pair.cc:545] Read error: Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("Timed out waiting 4000ms for recv operation to complete"), True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, remote process exited"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (RuntimeError("DataLoader timed out after 300 seconds"), False),
        (ConnectionResetError("Connection reset by peer"), False),  # of a loader's worker
        (DataError("Connection reset by peer"), False),
    ],
)
def test_only_errors_of_collectives_are_about_other_processes(
    error: Exception, broken: bool
) -> None:
    assert is_broken_collective(error) is broken


def peer(rank: int, **changes: Any) -> Peer:
    """A process of another machine that waits in step 12."""
    post = {
        "number": 9, "pid": 100 + rank, "born": "1", "machine": f"m{rank}", "host": f"node{rank}",
        "step": 12, "phase": "training", "beats": 0, "age": 70.0, "waits": True,
    }  # fmt: skip
    known = {"silence": 0.0, "end": None, "state": None}
    known |= {name: changes.pop(name) for name in tuple(changes) if name in known}
    return Peer(post=Post(**(post | changes)), **known)


def judged(*others: Peer, age: float = 70.0) -> Verdict | None:
    """What rank 0, which waits, makes of the others."""
    peers = dict(enumerate([peer(0), *others]))
    return judge(peers, by=0, age=age, waits=True, timeout=60.0)


def test_a_process_that_is_busy_is_guilty_even_if_it_is_ahead() -> None:
    found = judged(peer(1), peer(2, waits=False, step=13))
    assert found == Verdict(
        text="rank 2 (pid 102 on node2) has made no progress for 70 s in step 13 (training), the "
        "others wait for it",
        guilty=[2],
        silent=[],
    )


def test_where_all_wait_the_one_behind_is_guilty() -> None:
    found = judged(peer(1), peer(2, step=11))
    assert found is not None
    assert found.guilty == [2]


def test_nothing_is_judged_without_posts() -> None:
    assert judge({}, by=0, age=70.0, waits=True, timeout=60.0) is None


def test_nothing_is_judged_before_the_timeout_or_while_one_moves_on() -> None:
    assert judged(peer(1, waits=False), age=59) is None
    assert judged(peer(1, waits=False), peer(2, age=3.0)) is None


def test_a_process_of_another_machine_that_falls_silent_is_guilty() -> None:
    found = judged(peer(1, waits=False), peer(2, silence=3.0, age=0.5))
    assert found is not None
    assert "rank 2 (pid 102 on node2)" in found.text
    assert "(it does not answer)" in found.text
    assert (found.guilty, found.silent) == ([2], [2])


def test_a_process_that_never_came_is_guilty() -> None:
    found = judged(peer(1), Peer(post=None, silence=70.0, end=None, state=None))
    text = "rank 2 has not started, the others wait for it"
    assert found == Verdict(text=text, guilty=[2], silent=[])


def test_the_cause_is_the_first_error_and_not_what_followed_from_it() -> None:
    found = judged(
        peer(1, end={"kind": "peer", "text": "rank 3 failed"}),
        peer(2, end={"kind": "left", "text": "with exit code 0"}),
        peer(3, end={"kind": "failed", "text": "no space left", "code": 1}),
    )
    assert found is not None
    assert found.text == "rank 3 (pid 103 on node3) failed in step 12 (training): no space left"


def test_four_of_many_guilty_processes_are_named() -> None:
    found = judged(*(peer(rank, waits=False) for rank in range(1, 7)))
    assert found is not None
    assert found.text.count("has made no progress") == 4
    assert found.text.endswith("2 more ranks neither, the others wait for them")


def test_the_exit_code_is_that_of_the_error_with_which_a_process_failed() -> None:
    failed = peer(1, end={"kind": "failed", "text": "a.jpg is damaged", "code": 3})
    lost = peer(2, end={"kind": "peer", "text": "rank 1 failed", "code": 7})
    assert exit_code_of_cause({1: failed, 2: lost}, by=0) == 3
    assert exit_code_of_cause({2: lost}, by=0) == 7
    assert exit_code_of_cause({}, by=0) == 7
