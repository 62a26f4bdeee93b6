# SPDX-License-Identifier: Apache-2.0
"""What the processes of a group leave for each other: values by key in the launcher's store."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # of C++

from effdet import distributed

STORE_SECONDS = 3.0
"""How long a call may wait for the store."""


class Board:
    """Values of JSON by key. It may go away at any time, with the process that holds the store.

    Without a store nothing is left and nothing found.
    """

    def __init__(self) -> None:
        self._store: Store | None = None

    @property
    def gone(self) -> bool:
        """Whether there is no store: not yet, or not any more."""
        return self._store is None

    def connect(self, seconds: float = STORE_SECONDS) -> None:
        """Open a client of its own at the store that the group was built with, if there is one.

        Its keys belong to this start of the processes: torchrun keeps the store when it restarts
        them, and what those before them left must not be found.

        Args:
            seconds: to wait for it.
        """
        if not distributed.is_launched():
            return
        # Before there is a group, the count of restarts must do, though each node has its own.
        run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        start = distributed.start_name() or f"{run}/{restart}"
        with contextlib.suppress(RuntimeError, KeyError, ValueError):
            store = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
            )
            store.set_timeout(timedelta(seconds=STORE_SECONDS))
            self._store = PrefixStore(f"effdet/{start}", store)

    def put(self, key: str, value: Any) -> None:
        """Leave ``value``."""
        self._call(lambda store: store.set(key, json.dumps(value)))

    def put_first(self, key: str, value: dict[str, Any]) -> dict[str, Any] | None:
        """Leave ``value`` where there is none; what is there now, None where the board is gone."""
        content = self._call(lambda store: store.compare_set(key, "", json.dumps(value)))
        return None if content is None else dict(json.loads(content))

    def get(self, key: str) -> Any:
        """What was left, None where there is nothing."""
        content = self._call(lambda store: store.get(key) if store.check([key]) else None)
        return None if content is None else json.loads(content)

    def claim(self, key: str) -> bool:
        """Whether this call is the first of the group, or nobody can tell."""
        return self._call(lambda store: store.add(key, 1)) in (1, None)

    def wait(self, seconds: float, happens: Callable[[], bool]) -> None:
        """Return when ``happens`` holds, after ``seconds``, or when the board is gone."""
        deadline = time.monotonic() + seconds
        while not self.gone and time.monotonic() < deadline and not happens():
            time.sleep(0.05)

    def _call(self, use: Callable[[Store], Any]) -> Any:
        """``use`` of the store; None, and the end of the board, where that fails."""
        store = self._store  # another thread may lose it meanwhile
        if store is None:
            return None
        try:
            return use(store)
        except RuntimeError:
            self._store = None
            return None
