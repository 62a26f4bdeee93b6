# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from effdet import distributed
from effdet.errors import EffdetError
from effdet.structures import Batch
from effdet.training import train_one_epoch
from effdet.training.engine import Meter
from tests.training.conftest import MakeTrainer, two_images


def no_report(step: int, values: dict[str, float]) -> None:
    pass


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items() if "running" in n}


def test_two_images_are_learnt(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(lr=0.05, ema=False)
    batch = two_images()
    first = train_one_epoch(trainer, [batch], log_every=100, report=no_report)
    last = train_one_epoch(trainer, [batch] * 60, log_every=100, report=no_report)
    final = train_one_epoch(trainer, [batch], log_every=100, report=no_report)
    assert final["cls_loss"] < 0.25 * first["cls_loss"]
    assert final["box_loss"] < 0.25 * first["box_loss"]
    assert final["loss"] < last["loss"] < first["loss"]
    assert trainer.step == 62


def test_a_step_moves_weights_statistics_and_average(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    assert trainer.ema is not None
    before = {n: t.clone() for n, t in trainer.model.state_dict().items()}
    trainer.set_train_mode()
    values = trainer.train_step(two_images())
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
    trainer.train_step(two_images())
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_frozen_batch_norms_keep_their_statistics_and_learn(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(freeze_bn=True)
    before = statistics(trainer.model)
    norm = trainer.bare_model.get_submodule("class_head.bns.0.0")
    assert not norm.bias.any()
    train_one_epoch(trainer, [two_images()], log_every=1, report=no_report)
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
    train_one_epoch(trainer, [two_images()], log_every=1, report=no_report)
    assert not torch.equal(
        statistics(trainer.model)["backbone.stem.bn.running_mean"],
        before["backbone.stem.bn.running_mean"],
    )


def test_gradients_are_scaled_down_to_the_largest_norm(make_trainer: MakeTrainer) -> None:
    free, clipped = make_trainer(clip_norm=1e9), make_trainer(clip_norm=0.01)
    norms = []
    for trainer in (free, clipped):
        values = trainer.train_step(two_images())
        norms.append(values["grad_norm"].item())
    assert norms[0] == pytest.approx(norms[1])  # what is reported is the norm before
    gradients = [p.grad for p in clipped.model.parameters() if p.grad is not None]
    total = torch.stack([g.norm() for g in gradients]).norm().item()
    assert norms[0] > 0.02
    assert total == pytest.approx(0.01, rel=1e-3)


def test_mixed_precision_trains_in_float32_weights(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(dtype=torch.bfloat16)
    values = trainer.train_step(two_images())
    assert values["loss"].isfinite()
    assert values["loss"].dtype == torch.float32
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_validation_sees_the_average_where_there_is_one(make_trainer: MakeTrainer) -> None:
    with_average, without = make_trainer(), make_trainer(ema=False)
    assert with_average.ema is not None
    assert with_average.weights_to_validate() is with_average.ema.module
    assert without.weights_to_validate() is without.model


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_loss_that_is_not_finite_ends_the_run(log_every: int, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(ema=False)
    with torch.no_grad():
        trainer.bare_model.box_head.predict.pointwise.bias.fill_(float("nan"))
    with pytest.raises(EffdetError, match="the loss is nan near step 1: lower --lr") as caught:
        train_one_epoch(trainer, [two_images()], log_every=log_every, report=no_report)
    assert caught.value.exit_code == 1


def test_reports_come_in_time_with_the_means_since_the_last(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(ema=False)
    losses: list[float] = []
    step = trainer.train_step

    def recorded(batch: object) -> dict[str, torch.Tensor]:
        values = step(batch)  # type: ignore[arg-type]
        losses.append(values["loss"].item())
        return values

    trainer.train_step = recorded  # type: ignore[method-assign]
    reports: list[tuple[int, dict[str, float]]] = []
    means = train_one_epoch(
        trainer, [two_images()] * 5, log_every=2, report=lambda *r: reports.append(r)
    )
    assert [done for done, _ in reports] == [2, 4]
    assert reports[1][1]["loss"] == pytest.approx((losses[2] + losses[3]) / 2)
    assert reports[1][1]["lr"] == trainer.schedule(3)
    assert means["loss"] == pytest.approx(sum(losses) / 5)


def test_an_epoch_counts_its_images_and_the_time_without_them(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[int, float]] = []
    monkeypatch.setattr(Meter, "add", lambda self, values, *rest: counted.append(rest))

    def slow_loader() -> Iterator[Batch]:
        yield two_images()
        time.sleep(0.2)
        yield two_images()

    train_one_epoch(make_trainer(ema=False), slow_loader(), log_every=9, report=no_report)
    assert [images for images, _ in counted] == [2] * 4  # for the epoch and for the next report
    assert counted[0][1] < 0.2 <= counted[2][1]


def test_an_epoch_without_batches_says_nothing(make_trainer: MakeTrainer) -> None:
    assert train_one_epoch(make_trainer(ema=False), [], log_every=1, report=no_report) == {}


def test_a_meter_gives_means_rate_and_share_of_waiting() -> None:
    meter = Meter()
    meter.start = time.perf_counter() - 2.0
    meter.add({"loss": torch.tensor(1.0)}, images=8, data_seconds=0.25)
    meter.add({"loss": torch.tensor(4.0)}, images=4, data_seconds=0.75)
    means = meter.means()
    assert means["loss"] == 2.5
    assert means["images_per_second"] == pytest.approx(6, rel=0.05)
    assert means["data_share"] == pytest.approx(0.5, rel=0.05)


def test_a_meter_counts_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda value: value + 3)  # the other's sum
    meter = Meter()
    meter.start = time.perf_counter() - 1.0
    meter.add({"loss": torch.tensor(1.0)}, images=8, data_seconds=0.0)
    assert meter.means()["loss"] == 2.0
    assert meter.means()["images_per_second"] == pytest.approx(16, rel=0.05)
