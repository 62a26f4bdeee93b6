# SPDX-License-Identifier: Apache-2.0
"""What a process of a group says to its launcher and, for the whole group, to the user."""

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler, record

from effdet import distributed
from effdet.files import WriteError, replace_text
from effdet.training.board import Board

FIRST_SECONDS = 0.5
"""How long the others wait for the process that is to be the first to end."""

_REPORTED = "reported"


class _WholeErrors(ErrorHandler):
    """Leaves what ended a process for its launcher: whole, or not at all.

    The default writes the file in place. A process that is killed meanwhile leaves an empty one,
    on which torchrun ends with an error of its own instead of starting the processes again.
    """

    def record_exception(self, e: BaseException) -> None:
        tell_launcher(f"{type(e).__name__}: {e}", traceback.format_exc())


def with_errors_for_launcher(main: Callable[[], None]) -> Callable[[], None]:
    """``main``, leaving any exception where torchrun looks for the error of a process."""
    return record(main, _WholeErrors())


def report_to_launcher(line: str) -> bool:
    """Tell the launcher of an error, for its summary, and whether this process shall print it.

    Only the first error of a group is printed: it is the cause, or the same on all. Where another
    process was first, this returns when that one has had the time to print and to end.
    """
    if not distributed.is_launched():
        return True
    tell_launcher(line)
    board = Board()
    board.connect()
    if is_first(board):
        return True
    time.sleep(FIRST_SECONDS)
    return False


def is_first(board: Board) -> bool:
    """Whether no other process of the group has printed an error, or nobody can tell."""
    return board.claim(_REPORTED)


def tell_launcher(line: str, callstack: str | None = None) -> None:
    """Leave ``line``, and where it happened, where torchrun looks for the error of a process."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    details = {"timestamp": str(int(time.time()))}
    if callstack is not None:
        details["py_callstack"] = callstack
    with contextlib.suppress(WriteError):
        replace_text(path, json.dumps({"message": {"message": line, "extraInfo": details}}))


def store_host() -> str:
    """Who holds the store of the group."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return "the launcher of the processes"
    return "rank 0, which holds the store of the group,"
