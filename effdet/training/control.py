# SPDX-License-Identifier: Apache-2.0
"""What all processes must do at the same step: save, or save and leave."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from effdet import distributed
from effdet.errors import DivergedError, SignalError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They end a run, unless they are ignored already, as SIGHUP is under nohup."""


@dataclass(frozen=True)
class Orders:
    """What to do now, the same on every process.

    Attributes:
        signal: number of the signal that asked the run to end, 0 for none.
        save: a checkpoint is due.
        failed: the main process cannot write checkpoints any more.
    """

    signal: int = 0
    save: bool = False
    failed: bool = False


class Control:
    """Takes signals and the clock, and lets all processes agree on what follows from them.

    A handler only notes the signal, so nothing is interrupted in the middle; whichever process a
    signal reaches, all see it at the same call of :meth:`poll`. Signals after the first change
    nothing: a launcher often sends several.

    Args:
        save_minutes: between checkpoints, 0 for none.
        clock: seconds.
    """

    def __init__(self, save_minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.save_seconds = 60 * save_minutes
        self.clock = clock
        self.failed = False
        self._signal = 0
        self._saved = clock()
        self._exchange = distributed.HostMaximum(3)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Control":
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        # Errors that all processes meet at the same step leave no exchange unanswered.
        if kind is None or issubclass(kind, SignalError | DivergedError):
            self._exchange.finish()

    def poll(self) -> Orders:
        """What all processes agreed on; call it equally often on each, once a step.

        With several processes the answer is one call late, so nobody waits for it.
        """
        due = 0 < self.save_seconds <= self.clock() - self._saved
        if due:  # asked for once: the answer comes only after the next call has asked
            self._saved = self.clock()
        number, save, failed = self._exchange.exchange(
            [self._signal, int(due and distributed.is_main()), int(self.failed)]
        )
        return Orders(signal=number, save=bool(save), failed=bool(failed))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number
