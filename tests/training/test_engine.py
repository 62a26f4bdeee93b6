# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from effdet.errors import DivergedError
from effdet.settings import Optimizer, WeightsToValidate
from effdet.structures import Batch
from effdet.training import Meter, Trainer, train_one_epoch
from tests.training.conftest import MakeTrainer, two_images


def no_report(step: int, values: dict[str, float]) -> None:
    pass


def train_epoch(trainer: Trainer, batches: Iterable[Batch], **changes: Any) -> dict[str, float]:
    """The means of an epoch."""
    meter = Meter()
    options: dict[str, Any] = {"log_every": 100, "report": no_report, **changes}
    train_one_epoch(trainer, batches, meter, **options)
    return meter.means()


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items() if "running" in n}


def test_two_images_are_learnt(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(lr=0.05, ema=False)
    batch = two_images()
    first = train_epoch(trainer, [batch])
    last = train_epoch(trainer, [batch] * 60)
    final = train_epoch(trainer, [batch])
    assert final["cls_loss"] < 0.25 * first["cls_loss"]
    assert final["box_loss"] < 0.25 * first["box_loss"]
    assert final["loss"] < last["loss"] < first["loss"]
    assert trainer.step == 62


def test_a_step_moves_weights_statistics_and_average(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    assert trainer.ema is not None
    before = {n: t.clone() for n, t in trainer.model.state_dict().items()}
    trainer.set_train_mode()
    values, skipped = trainer.train_step([two_images()])
    assert not skipped
    assert set(values) == {"loss", "cls_loss", "box_loss", "grad_norm"}
    assert not any(value.requires_grad for value in values.values())
    stem = "backbone.stem.conv.weight"
    now, average = trainer.model.state_dict(), trainer.ema.module.state_dict()
    assert not torch.equal(now[stem], before[stem])
    assert not torch.equal(
        now["backbone.stem.bn.running_mean"], before[stem.replace("conv.weight", "bn.running_mean")]
    )
    assert_close(average[stem], 0.1 * before[stem] + 0.9 * now[stem])  # first decay: 1 / 10
    assert (trainer.step, trainer.ema.updates) == (1, 1)


def test_the_rate_of_a_step_is_the_schedules(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.step = 500
    trainer.train_step([two_images()])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_frozen_batch_norms_keep_their_statistics_and_learn(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(freeze_bn=True)
    before = statistics(trainer.model)
    norm = trainer.bare_model.get_submodule("class_head.bns.0.0")
    assert not norm.bias.any()
    train_epoch(trainer, [two_images()])
    after = statistics(trainer.model)
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert trainer.model.training
    assert norm.bias.any()


def test_an_epoch_trains_what_validation_left_in_evaluation_mode(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer()
    trainer.model.eval()
    before = statistics(trainer.model)
    train_epoch(trainer, [two_images()])
    assert not torch.equal(
        statistics(trainer.model)["backbone.stem.bn.running_mean"],
        before["backbone.stem.bn.running_mean"],
    )


def test_gradients_are_scaled_down_to_the_largest_norm(make_trainer: MakeTrainer) -> None:
    free, clipped = make_trainer(clip_norm=1e9), make_trainer(clip_norm=0.01)
    norms = []
    for trainer in (free, clipped):
        values, _ = trainer.train_step([two_images()])
        norms.append(values["grad_norm"].item())
    assert norms[0] == pytest.approx(norms[1])  # what is reported is the norm before
    gradients = [p.grad for p in clipped.model.parameters() if p.grad is not None]
    total = torch.stack([g.norm() for g in gradients]).norm().item()
    assert norms[0] > 0.02
    assert total == pytest.approx(0.01, rel=1e-3)


def test_mixed_precision_trains_in_float32_weights(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(dtype=torch.bfloat16)
    values, _ = trainer.train_step([two_images()])
    assert values["loss"].isfinite()
    assert values["loss"].dtype == torch.float32
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_averaged_and_raw_weights_are_validated(make_trainer: MakeTrainer) -> None:
    with_average, without = make_trainer(), make_trainer(ema=False)
    assert with_average.ema is not None
    average, raw = with_average.ema.module, with_average.model
    assert with_average.weights_to_validate() == {"ema": average, "raw": raw}
    assert with_average.weights_to_validate("ema") == {"ema": average}
    assert with_average.weights_to_validate("raw") == {"raw": raw}
    for wanted in get_args(WeightsToValidate):
        assert without.weights_to_validate(wanted) == {"raw": without.model}


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Copies of weights, statistics, average and optimizer state."""
    assert trainer.ema is not None
    state = {f"raw.{n}": t for n, t in trainer.bare_model.state_dict().items()}
    state |= {f"ema.{n}": t for n, t in trainer.ema.module.state_dict().items()}
    for number, values in trainer.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{n}": t for n, t in values.items()}
    # They count forward passes, and momentum does not depend on them.
    return {n: t.clone() for n, t in state.items() if "num_batches_tracked" not in n}


def bad_images() -> Batch:
    batch = two_images()
    batch.images[0, 0, 3, 3] = float("nan")
    return batch


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_without_finite_gradients_changes_nothing(
    first: bool, kind: Optimizer, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer(optimizer=kind)
    trainer.set_train_mode()
    if not first:
        trainer.train_step([two_images()])
    before, step = everything(trainer), trainer.step
    values, skipped = trainer.train_step([bad_images()])
    assert skipped
    assert not values["grad_norm"].isfinite()
    after = everything(trainer)
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    assert not any(after[n].any() for n in after.keys() - before.keys())  # AdamW's new moments
    assert trainer.step == step + 1
    assert trainer.skipped == (1, 1)
    trainer.train_step([two_images()])
    assert trainer.skipped == (1, 0)
    assert all(value.isfinite().all() for value in everything(trainer).values())


@pytest.mark.parametrize("log_every", [1, 20, 1000])
def test_a_run_without_finite_gradients_ends_and_keeps_its_weights(
    log_every: int, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer()
    good, bad = two_images(), bad_images()
    with pytest.raises(DivergedError, match="no finite gradients in 50 steps") as caught:
        train_epoch(trainer, [good] * 30 + [bad] * 200, log_every=log_every)
    assert trainer.step == 80
    assert caught.value.exit_code == 6
    assert caught.value.batches == [bad]
    assert all(value.isfinite().all() for value in everything(trainer).values())


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.filterwarnings("ignore:Error detected in")
def test_an_anomaly_ends_the_run_and_names_the_operation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    with (
        torch.autograd.detect_anomaly(),
        pytest.raises(DivergedError, match=r"returned nan values.* in step 1; the call") as caught,
    ):
        train_epoch(trainer, [bad := bad_images()])
    assert caught.value.batches == [bad]


def test_it_ends_across_short_epochs_too(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    train_epoch(trainer, [bad_images()] * 26)
    with pytest.raises(DivergedError, match="no finite gradients in 50 steps"):
        train_epoch(trainer, [bad_images()] * 26)
    assert trainer.step == 50


def test_a_collapsing_loss_scale_ends_the_run(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(scaler=torch.amp.GradScaler("cpu"))
    before = everything(trainer)
    with pytest.raises(DivergedError, match=r"the loss scale fell to 0\.5 at step 17"):
        train_epoch(trainer, [bad_images()] * 60, log_every=1)
    after = everything(trainer)
    assert [n for n in before if not torch.equal(before[n], after[n])] == []


def test_a_scaler_gives_the_weights_of_none(make_trainer: MakeTrainer) -> None:
    scaled, plain = make_trainer(scaler=torch.amp.GradScaler("cpu")), make_trainer()
    for trainer in (scaled, plain):
        train_epoch(trainer, [two_images(), bad_images(), two_images()])
    expected = everything(plain)
    for name, value in everything(scaled).items():
        assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    assert scaled.scaler.get_scale() == 2**15


def test_several_batches_make_the_step_of_one(make_trainer: MakeTrainer) -> None:
    whole, parts = make_trainer(freeze_bn=True), make_trainer(freeze_bn=True)
    batch = two_images()
    singles = [
        Batch(images=batch.images[i : i + 1], targets=batch.targets[i : i + 1]) for i in range(2)
    ]
    means = [
        train_epoch(whole, [batch]),
        train_epoch(parts, singles, accumulate=2),
    ]
    assert parts.step == whole.step == 1
    for name in ("loss", "cls_loss", "box_loss", "grad_norm"):
        assert means[1][name] == pytest.approx(means[0][name], rel=1e-5)
    expected = everything(whole)
    for name, value in everything(parts).items():
        assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_rehearsal_leaves_no_trace(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    counters = trainer.bare_model.state_dict()["backbone.stem.bn.num_batches_tracked"]
    before = everything(trainer)
    trainer.rehearse((96, 128), 2, 2)
    after = everything(trainer)
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    assert trainer.step == counters == 0
    assert all(p.grad is None for p in trainer.bare_model.parameters())


class _Reads(TorchDispatchMode):
    """Counts operations that wait for a GPU to hand a value to the host."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(self.READS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scaled", [False, True])
def test_nothing_is_read_from_the_device_between_reports(
    scaled: bool, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(scaler=torch.amp.GradScaler("cpu", enabled=scaled))
    reads = _Reads()
    # These look at the values of tensors that lie on a CPU, and only there.
    monkeypatch.setattr("effdet.ops.assign._check_labels", lambda labels: None)
    monkeypatch.setattr("effdet.ops.focal_loss._check_range", lambda targets, classes: None)
    for name in ("tolist", "numpy", "cpu"):  # these go past the dispatcher
        method = getattr(Tensor, name)

        def counted(self: Tensor, *rest: Any, name: str = name, method: Any = method) -> Any:
            reads.found.append(name)
            return method(self, *rest)

        monkeypatch.setattr(Tensor, name, counted)
    per_step: list[int] = []

    def after_step(images: int) -> None:
        per_step.append(len(reads.found))
        reads.found.clear()

    with reads:
        train_epoch(trainer, [two_images()] * 9, log_every=4, after_step=after_step)
    quiet = per_step[1:3] + per_step[4:7] + per_step[8:]
    assert quiet == [0] * 6
    assert per_step[3] > 0
    assert per_step[7] > 0


def test_reports_come_in_time_with_the_means_since_the_last(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(ema=False)
    losses: list[float] = []
    step = trainer.train_step

    def recorded(batches: Sequence[Batch]) -> tuple[dict[str, Tensor], Tensor]:
        values, skipped = step(batches)
        losses.append(values["loss"].item())
        return values, skipped

    trainer.train_step = recorded  # type: ignore[method-assign]
    reports: list[tuple[int, dict[str, float]]] = []
    used: list[int] = []
    means = train_epoch(
        trainer,
        [two_images()] * 5,
        log_every=2,
        report=lambda *values: reports.append(values),
        after_step=used.append,
    )
    assert [done for done, _ in reports] == [2, 4]
    assert reports[1][1]["loss"] == pytest.approx((losses[2] + losses[3]) / 2)
    assert reports[1][1]["lr"] == trainer.schedule(3)
    assert means["loss"] == pytest.approx(sum(losses) / 5)
    assert used == [2] * 5


def test_an_epoch_counts_its_images_and_the_time_without_them(make_trainer: MakeTrainer) -> None:
    def slow_loader() -> Iterator[Batch]:
        yield two_images()
        time.sleep(0.2)
        yield two_images()

    meter = Meter()
    train_one_epoch(make_trainer(ema=False), slow_loader(), meter, log_every=9, report=no_report)
    assert (meter.steps, meter.images) == (2, 4)
    assert meter.waiting >= 0.2


def test_an_epoch_without_batches_says_nothing(make_trainer: MakeTrainer) -> None:
    assert train_epoch(make_trainer(ema=False), []) == {}
