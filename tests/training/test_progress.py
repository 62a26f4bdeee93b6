# SPDX-License-Identifier: Apache-2.0
import random
from pathlib import Path

import numpy as np
import torch

from effdet.training import Progress
from effdet.training.progress import random_state, set_random_state

CPU = torch.device("cpu")


def test_a_higher_ap_is_better_and_none_better_than_nothing() -> None:
    progress = Progress()
    found = [progress.judge(ap) for ap in (None, 0.0, 0.2, 0.2, 0.1, 0.3)]
    assert found == [True, True, True, False, False, True]
    assert progress.best_ap == 0.3
    assert progress.validations == 6


def test_validations_without_a_gain_are_counted() -> None:
    progress = Progress()
    stale = []
    for ap in (0.1, 0.1, 0.05, 0.2, 0.1):
        progress.judge(ap)
        stale.append(progress.stale)
    assert stale == [0, 1, 2, 0, 1]


def test_progress_goes_on_from_its_state() -> None:
    progress = Progress(epoch=3, images=40, best_ap=0.25, stale=2, validations=5)
    other = Progress()
    other.load_state_dict(progress.state_dict())
    assert other.state_dict() == progress.state_dict()


def test_an_epoch_that_was_begun_keeps_its_meter() -> None:
    progress = Progress(epoch=1, images=8)
    meter = progress.meter
    progress.begin_epoch()
    assert progress.meter is meter
    progress.end_epoch()
    assert (progress.epoch, progress.images) == (2, 0)
    progress.begin_epoch()
    assert progress.meter is not meter


def draws() -> list[float]:
    number = float(np.random.rand())  # noqa: NPY002
    return [torch.rand(()).item(), random.random(), number, random.gauss(0, 1)]


def test_generators_go_on_from_their_states(tmp_path: Path) -> None:
    draws()
    file = tmp_path / "state.pt"
    torch.save(random_state(CPU), file)
    expected = draws()
    assert draws() != expected
    set_random_state(torch.load(file, weights_only=True), CPU)
    assert draws() == expected


def test_a_best_that_could_not_be_written_is_forgotten() -> None:
    progress = Progress()
    progress.judge(0.2)
    progress.judge(0.5)
    progress.forget_best()
    assert progress.best_ap == 0.2
    assert progress.judge(0.3)
