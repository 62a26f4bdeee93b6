# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

from effdet.errors import WeightsError
from effdet.training import load_batches, save_batches
from tests.training.conftest import MakeTrainer, two_images


def test_a_kept_batch_makes_the_same_step_again(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    file = tmp_path / "diverged-rank0.pt"
    save_batches(file, [two_images()], epoch=2, step=7)
    values = torch.load(file, weights_only=True)
    assert (values["epoch"], values["step"]) == (2, 7)
    first, _ = make_trainer().train_step([two_images()])
    again, _ = make_trainer().train_step(load_batches(file))
    assert first == again


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="expected batches that a stopped run has kept"):
        load_batches(tmp_path / "other.pt")
    torch.save({"format": "effdet batches", "batches": [{}]}, tmp_path / "empty.pt")
    with pytest.raises(WeightsError, match="missing or wrong entry"):
        load_batches(tmp_path / "empty.pt")
