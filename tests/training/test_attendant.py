# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effdet.errors import DivergedError, EffdetError, SignalError
from effdet.structures import Batch
from effdet.training import Attendant, Orders, Progress, load_batches
from tests.training.conftest import two_images


class Recorder:
    """Takes any call and notes its name and arguments."""

    def __init__(self, **values: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **options: self.calls.append((name, words, options))


class Control:
    """Gives orders one by one."""

    def __init__(self, *orders: Orders) -> None:
        self.orders = list(orders)
        self.failed = False

    def poll(self) -> Orders:
        return self.orders.pop(0)


def attendant(*orders: Orders, failures: int = 0, best_lost: bool = False) -> Any:
    return Attendant(
        trainer=SimpleNamespace(step=7),  # type: ignore[arg-type]
        progress=Progress(images=8),
        checkpointer=Recorder(failures=failures, best_lost=best_lost),  # type: ignore[arg-type]
        control=Control(*orders),  # type: ignore[arg-type]
        peers=Recorder(),  # type: ignore[arg-type]
        log=Recorder(folder=Path("runs/x"), history=[]),  # type: ignore[arg-type]
        step_images=4,
    )


def test_a_step_moves_the_position_and_is_told() -> None:
    at = attendant(Orders(), Orders())
    at.after_step(4)
    at.after_step(4)
    assert at.progress.images == 16
    assert at.log.calls == [("tick", (3,), {}), ("tick", (4,), {})]
    assert at.peers.calls == [("beat", (7, "training"), {})] * 2
    assert at.checkpointer.calls == []


def test_a_save_that_is_due_is_made() -> None:
    at = attendant(Orders(save=True))
    at.after_step(4)
    ((name, _, options),) = at.checkpointer.calls
    assert (name, options) == ("save", {"must": False})
    assert not at.control.failed


@pytest.mark.parametrize("method", ["after_step", "during_validation"])
def test_a_signal_saves_and_ends_the_run(method: str) -> None:
    at = attendant(Orders(signal=15))
    words = (4,) if method == "after_step" else ()
    with pytest.raises(SignalError, match="saved at step 7; go on with --resume runs/x") as caught:
        getattr(at, method)(*words)
    assert caught.value.exit_code == 143
    ((name, _, options),) = at.checkpointer.calls
    assert (name, options) == ("save", {"must": True})


def test_saves_that_fail_again_and_again_end_the_run() -> None:
    at = attendant(Orders(save=True), Orders(failed=True), failures=3)
    at.after_step(4)
    assert at.control.failed
    with pytest.raises(EffdetError, match="3 checkpoints in a row could not be written"):
        at.after_step(4)


def test_during_validation_tensors_can_still_be_trained_with() -> None:
    made = []
    at = attendant(Orders(save=True))
    at.checkpointer.save = lambda *_, **__: made.append(torch.zeros(1))
    with torch.inference_mode():
        at.during_validation()
    assert not made[0].is_inference()


def test_the_others_know_when_this_process_waits_for_data() -> None:
    at = attendant()
    order: list[Any] = []
    at.peers.beat = lambda step, phase: order.append(phase)

    def batches() -> Iterator[Batch]:
        for _ in range(2):
            order.append("loaded")
            yield two_images()

    for _ in at.announced(batches()):
        order.append("step")
    one = ["loading data", "loaded", "training", "step"]
    assert order == [*one, *one, "loading data"]


def test_a_run_that_diverges_leaves_its_state_behind_the_step_and_the_batches_of_it(
    tmp_path: Path,
) -> None:
    at = attendant()
    error = DivergedError("no finite gradients")
    error.batches = [two_images()] * 3
    with (
        pytest.raises(DivergedError) as caught,
        at.keeping_diverged(tmp_path, lambda ids: [f"{n}.png" for n in ids]),
    ):
        raise error
    file = tmp_path / "diverged-rank0.pt"
    assert str(caught.value) == (
        "no finite gradients; the last batch (0.png, 1.png, 0.png, 1.png and 2 more) is kept in "
        f"{file}"
    )
    assert len(load_batches(file)) == 3
    assert at.progress.images == 12
    assert [name for name, _, _ in at.checkpointer.calls] == ["save"]


def test_a_divergence_without_a_step_leaves_nothing(tmp_path: Path) -> None:
    at = attendant()
    with (
        pytest.raises(DivergedError, match=r"^nan in backward$"),
        at.keeping_diverged(tmp_path, list),
    ):
        raise DivergedError("nan in backward")
    assert at.progress.images == 8
    assert at.checkpointer.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("best_lost", "best"), [(True, 0.2), (False, 0.5)])
def test_a_best_that_is_not_on_the_disk_is_tried_again(best_lost: bool, best: float) -> None:
    """A save may fail after best.pt: that one is kept, and a worse one must not replace it."""
    at = attendant(failures=1, best_lost=best_lost)
    at.progress.judge(0.2)
    at.progress.judge(0.5)
    at.save(is_best=True)
    assert at.progress.best_ap == best
