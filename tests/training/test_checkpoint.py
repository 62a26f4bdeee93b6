# SPDX-License-Identifier: Apache-2.0
import errno
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effdet.config import model_config
from effdet.errors import DivergedError, WeightsError
from effdet.files import WriteError
from effdet.run_files import BEST, LAST
from effdet.settings import TrainConfig
from effdet.structures import ClassMap
from effdet.training import Checkpointer, Progress, seed_epoch, train_one_epoch
from effdet.training import checkpoint as checkpoint_module
from effdet.training.checkpoint import machine
from effdet.training.engine import Trainer
from effdet.training.progress import random_state
from effdet.weights import Checkpoint, load_checkpoint
from tests.tiny import tiny_model
from tests.training.conftest import CLASS_MAP, CPU, MakeTrainer, two_images

STEPS = 4  # of an epoch
IMAGES = 2  # of a step


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_model():
        yield


@pytest.fixture
def make_tiny(make_trainer: MakeTrainer) -> MakeTrainer:
    """A trainer of the tiny model, whose checkpoints are small."""
    return functools.partial(make_trainer, config=model_config("tiny", num_classes=2))


class Saver(Checkpointer):
    """A checkpointer that keeps its warnings."""

    def __init__(
        self,
        folder: Path | None,
        *,
        class_map: ClassMap = CLASS_MAP,
        steps_per_epoch: int = STEPS,
        **changes: Any,
    ) -> None:
        self.warnings: list[str] = []
        config = TrainConfig(image_size=(64, 64), **changes)
        warn = self.warnings.append
        model = model_config("tiny", num_classes=2)
        super().__init__(folder, config, model, class_map, steps_per_epoch, warn)

    def bring_back(self, trainer: Trainer, name: str = LAST) -> Progress:
        """Restore from a file of the folder."""
        assert self.folder is not None
        path, progress = self.folder / name, Progress()
        self.restore(trainer, progress, load_checkpoint(path), path)
        return progress


def steps(trainer: Trainer, progress: Progress, number: int) -> None:
    """Train on the same two images."""
    for _ in range(number):
        if progress.images == 0:
            progress.begin_epoch()
            seed_epoch(0, progress.epoch)
        train_one_epoch(
            trainer, [two_images()], progress.meter, log_every=9, report=lambda *_: None
        )
        progress.images += IMAGES
        if progress.images == STEPS * IMAGES:
            progress.end_epoch()


def everything(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    assert trainer.ema is not None
    state: dict[str, Any] = {f"raw.{n}": t for n, t in trainer.bare_model.state_dict().items()}
    state |= {f"ema.{n}": t for n, t in trainer.ema.module.state_dict().items()}
    for number, values in trainer.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{n}": t for n, t in values.items()}
    meter = progress.meter.state_dict()
    return (
        state
        | progress.state_dict()
        | {
            "step": trainer.step,
            "skipped": trainer.skipped,
            "updates": trainer.ema.updates,
            "scaler": trainer.scaler.state_dict(),
            "meter": [meter["names"], meter["sums"], progress.meter.steps, progress.meter.images],
            "random": random_state(CPU)["torch"].clone(),
        }
    )


def unequal(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    assert first.keys() == second.keys()
    return [
        name
        for name, value in first.items()
        if not (torch.equal(value, second[name]) if isinstance(value, Tensor) else
                value == second[name])
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("done", [0, 1, 3, 4, 6])
def test_what_comes_back_goes_on_bit_by_bit(
    done: int, kind: Any, make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    """Before the first step, within an epoch and between two."""
    whole, progress, saver = make_tiny(optimizer=kind), Progress(), Saver(tmp_path)
    seed_epoch(0, 1)
    steps(whole, progress, done)
    saver.save(whole, progress, [{"epoch": 1}] if done >= STEPS else [])
    before = everything(whole, progress)

    other = make_tiny(seed=7, optimizer=kind)
    steps(other, Progress(), 1)
    restorer = Saver(tmp_path)
    going_on = restorer.bring_back(other)
    if progress.images == 0:  # a new epoch begins with new means
        progress.begin_epoch(), going_on.begin_epoch()
        before = everything(whole, progress)
    assert unequal(everything(other, going_on), before) == []
    assert restorer.warnings == []

    torch.set_rng_state(before["random"])
    steps(whole, progress, 3)
    after = everything(whole, progress)
    torch.set_rng_state(before["random"])
    steps(other, going_on, 3)
    assert unequal(everything(other, going_on), after) == []
    assert after["step"] == before["step"] + 3


def test_the_loss_scale_comes_back(make_tiny: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_tiny(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**9))
    steps(trainer, Progress(), 2)
    Saver(tmp_path).save(trainer, Progress(), [])
    other = make_tiny(scaler=torch.amp.GradScaler("cpu"))
    Saver(tmp_path).bring_back(other)
    assert other.scaler.state_dict() == trainer.scaler.state_dict()
    assert other.scaler.get_scale() == 2.0**9
    plain = make_tiny()  # continued without float16
    Saver(tmp_path).bring_back(plain)
    assert plain.step == 2


def test_skipped_steps_are_counted_across_a_restart(make_tiny: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_tiny()
    trainer.skipped = (5, 3)
    Saver(tmp_path).save(trainer, Progress(), [])
    other = make_tiny()
    Saver(tmp_path).bring_back(other)
    assert other.skipped == (5, 3)


def test_within_an_epoch_the_file_says_which_and_how_far(
    make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    trainer, progress, saver = make_tiny(), Progress(), Saver(tmp_path)
    steps(trainer, progress, STEPS + 2)
    saver.save(trainer, progress, [])
    checkpoint = load_checkpoint(tmp_path / LAST)
    assert checkpoint.metrics == {"epoch": 2}
    assert (checkpoint.training["epoch"], checkpoint.training["images"]) == (2, 2 * IMAGES)
    assert checkpoint.training["step"] == STEPS + 2
    steps(trainer, progress, STEPS - 2)
    saver.save(trainer, progress, [], {"AP": 0.5})
    checkpoint = load_checkpoint(tmp_path / LAST)
    assert checkpoint.metrics == {"epoch": 2, "AP": 0.5}
    assert (checkpoint.training["epoch"], checkpoint.training["images"]) == (3, 0)


def test_history_and_best_ap_come_back(make_tiny: MakeTrainer, tmp_path: Path) -> None:
    progress = Progress()
    for ap in (0.25, 0.125):
        progress.judge(ap)
    history = [{"epoch": 1, "AP": 0.25, "weights": "ema"}, {"epoch": 2, "AP": None}]
    Saver(tmp_path).save(make_tiny(), progress, history)
    other = Progress()
    path = tmp_path / LAST
    found = Saver(tmp_path).restore(make_tiny(), other, load_checkpoint(path), path)
    assert found == history
    assert (other.best_ap, other.stale, other.validations) == (0.25, 1, 2)
    assert not other.judge(0.25)


@pytest.mark.parametrize("chosen", ["ema", "raw"])
def test_the_best_holds_both_weights_and_says_which_are_better(
    chosen: str, make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    trainer, saver = make_tiny(), Saver(tmp_path)
    steps(trainer, Progress(), 1)
    figures = {"AP": 0.5, "weights": chosen, "AP_ema": 0.5, "AP_raw": 0.5}
    saver.save(trainer, Progress(epoch=2), [], figures, is_best=True)
    best = load_checkpoint(tmp_path / BEST)
    assert best.chosen == chosen
    assert best.metrics == {"epoch": 1, **figures}
    assert best.training == {}
    assert trainer.ema is not None
    models = {"ema": trainer.ema.module, "raw": trainer.bare_model}
    assert not torch.equal(*(m.state_dict()["backbone.stem.conv.weight"] for m in models.values()))
    for name, value in models[chosen].state_dict().items():
        assert torch.equal(best.best_weights()[name], value), name


def test_the_best_stays_until_a_better_one_comes(make_tiny: MakeTrainer, tmp_path: Path) -> None:
    trainer, saver = make_tiny(), Saver(tmp_path)
    saver.save(trainer, Progress(epoch=2), [])
    assert not (tmp_path / BEST).exists()
    saver.save(trainer, Progress(epoch=3), [], {"AP": 0.2}, is_best=True)
    saver.save(trainer, Progress(epoch=4), [], {"AP": 0.1})
    assert load_checkpoint(tmp_path / BEST).metrics["epoch"] == 2
    assert load_checkpoint(tmp_path / LAST).metrics == {"epoch": 3, "AP": 0.1}


def test_without_an_average_the_raw_weights_are_chosen(
    make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    trainer, saver = make_tiny(ema=False), Saver(tmp_path)
    saver.save(trainer, Progress(epoch=2), [], {"AP": 0.2, "weights": "raw"}, is_best=True)
    for name in (BEST, LAST):
        checkpoint = load_checkpoint(tmp_path / name)
        assert (checkpoint.ema, checkpoint.chosen) == (None, "raw")
    saver.bring_back(make_tiny(ema=False))


@pytest.mark.parametrize(
    ("save_every", "keep", "kept"), [(0, 3, []), (1, 2, [5, 6]), (2, 0, [2, 4, 6]), (4, 3, [4])]
)
def test_checkpoints_of_every_few_epochs_are_kept(
    save_every: int, keep: int, kept: list[int], make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    trainer, saver = make_tiny(), Saver(tmp_path, save_every=save_every, keep=keep)
    for epoch in range(1, 7):
        saver.save(trainer, Progress(epoch=epoch, images=IMAGES), [])  # within it
        assert not (tmp_path / f"epoch-{epoch:04d}.pt").exists()
        saver.save(trainer, Progress(epoch=epoch + 1), [])
    found = sorted(path.name for path in tmp_path.glob("epoch-*.pt"))
    assert found == [f"epoch-{epoch:04d}.pt" for epoch in kept]
    for epoch in kept:
        checkpoint = load_checkpoint(tmp_path / f"epoch-{epoch:04d}.pt")
        assert checkpoint.metrics["epoch"] == epoch
        assert checkpoint.training["epoch"] == epoch + 1


def full_disk(*_: object) -> None:
    raise WriteError(errno.ENOSPC, "cannot write last.pt: No space left on device")


def test_a_failed_save_is_told_and_counted_until_one_succeeds(
    make_tiny: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, saver = make_tiny(), Saver(tmp_path)
    saver.save(trainer, Progress(), [])
    before = (tmp_path / LAST).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_last", full_disk)
        for number in (1, 2):
            saver.save(trainer, Progress(epoch=2), [])
            assert saver.failures == number
    assert (tmp_path / LAST).read_bytes() == before
    text = "cannot write last.pt: No space left on device; the run goes on, "
    assert saver.warnings == [f"{text}2 more tries", f"{text}1 more tries"]
    saver.save(trainer, Progress(epoch=2), [])
    assert saver.failures == 0
    assert load_checkpoint(tmp_path / LAST).training["epoch"] == 2


def test_the_last_chance_to_save_is_not_let_pass_in_silence(
    make_tiny: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path)
    monkeypatch.setattr(checkpoint_module, "save_last", full_disk)
    with pytest.raises(WriteError, match="No space left on device"):
        saver.save(make_tiny(), Progress(), [], must=True)
    assert saver.failures == 1
    assert saver.warnings == []


def test_weights_that_are_not_finite_are_never_saved(
    make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    trainer, saver = make_tiny(), Saver(tmp_path)
    saver.save(trainer, Progress(), [])
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="is not finite any more"):
        saver.save(trainer, Progress(epoch=2), [], {"AP": 0.1}, is_best=True)
    assert load_checkpoint(tmp_path / LAST).training["epoch"] == 1
    assert not (tmp_path / BEST).exists()


def test_without_a_folder_nothing_is_written(
    make_tiny: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Saver(None).save(make_tiny(), Progress(epoch=2), [], {"AP": 0.4}, is_best=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_other_classes_is_not_continued(make_tiny: MakeTrainer, tmp_path: Path) -> None:
    Saver(tmp_path).save(make_tiny(), Progress(), [])
    other = Saver(tmp_path, class_map=ClassMap(("red", "green"), (1, 2)))
    with pytest.raises(WeightsError, match=r"last\.pt: the run was on other classes.*--weights"):
        other.bring_back(make_tiny())


@pytest.mark.parametrize("lost", ["optimizer", "skipped", "ranks", "epoch", "machine", "history"])
def test_training_state_with_a_hole_is_one_line(
    lost: str, make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    saver = Saver(tmp_path)
    saver.save(make_tiny(), Progress(), [])
    good = load_checkpoint(tmp_path / LAST)
    training = {name: value for name, value in good.training.items() if name != lost}
    bad = Checkpoint(**{**vars(good), "training": training})
    with pytest.raises(WeightsError, match=rf"last\.pt: damaged training state.*{lost}"):
        saver.restore(make_tiny(), Progress(), bad, tmp_path / LAST)


@pytest.mark.parametrize(("now", "step"), [(2, 3), (8, 12), (4, 6)])
def test_with_other_steps_an_epoch_the_schedule_goes_on_at_the_same_part_of_the_run(
    now: int, step: int, make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    trainer, progress = make_tiny(), Progress()
    steps(trainer, progress, STEPS + 2)
    Saver(tmp_path).save(trainer, progress, [])
    other = make_tiny()
    going_on = Saver(tmp_path, steps_per_epoch=now).bring_back(other)
    assert other.step == step
    assert (going_on.epoch, going_on.images) == (2, 2 * IMAGES)  # images, whatever a step has


@pytest.mark.parametrize("name", ["processes", "threads", "torch"])
def test_on_another_machine_it_warns_that_bits_may_differ(
    name: str, make_tiny: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Saver(tmp_path).save(make_tiny(), Progress(), [])
    was = machine()[name]
    monkeypatch.setattr(checkpoint_module, "machine", lambda: machine() | {name: "other"})
    saver = Saver(tmp_path)
    saver.bring_back(make_tiny())
    (warning,) = saver.warnings
    assert warning == f"not bit-equal to an uninterrupted run: {name} was {was}, is other"


def test_with_another_number_of_processes_each_has_generators_of_its_own(
    make_tiny: MakeTrainer, tmp_path: Path
) -> None:
    """Those of two processes do not fit one: what this process has drawn stays."""
    saver, progress = Saver(tmp_path), Progress()
    steps(trainer := make_tiny(), progress, 1)
    saver.save(trainer, progress, [])
    good = load_checkpoint(tmp_path / LAST)
    two = Checkpoint(
        **{**vars(good), "training": {**good.training, "ranks": 2 * good.training["ranks"]}}
    )
    other = make_tiny()
    torch.manual_seed(123)
    before, going_on = torch.get_rng_state(), Progress()
    saver.restore(other, going_on, two, tmp_path / LAST)
    assert torch.equal(torch.get_rng_state(), before)
    assert going_on.meter.steps == 0
    assert (other.step, going_on.images) == (1, IMAGES)


def test_what_is_drawn_depends_on_seed_and_epoch_only() -> None:
    def draw(seed: int, number: int) -> float:
        seed_epoch(seed, number)
        return torch.rand(1).item()

    assert draw(0, 1) == draw(0, 1)
    assert len({draw(seed, number) for seed in range(3) for number in range(3)}) == 9
