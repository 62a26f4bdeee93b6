# SPDX-License-Identifier: Apache-2.0
"""One step and one epoch of training."""

import gc
import itertools
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from effdet import distributed
from effdet.errors import DivergedError
from effdet.losses import DetectionLoss
from effdet.precision import autocast
from effdet.settings import WeightsToValidate
from effdet.structures import Batch, Target
from effdet.training.batch_size import unchanged
from effdet.training.ema import ModelEma
from effdet.training.freeze import freeze, is_frozen_as, set_train_mode
from effdet.training.meter import Meter
from effdet.training.optimizer import renew_state, step_unless
from effdet.training.schedule import RateSchedule
from effdet.training.statistics import RunningStatistics

SMALLEST_SCALE = 1.0
"""A loss scale below this helps no gradient: something else is wrong."""

_ADVICE = (
    "lower --lr, lengthen --warmup-epochs, train with --amp-dtype bfloat16 or without --amp, or "
    "find the operation with --detect-anomaly"
)


class AnomalyError(DivergedError):
    """An operation that gave a NaN, in the middle of a step."""


@dataclass(kw_only=True, eq=False)
class Trainer:
    """What a training step needs, and the step count that goes through all epochs.

    A step whose gradients are not finite is skipped on the device: weights, running statistics,
    optimizer and average stay as they were, the schedule goes on.

    Attributes:
        model: the model, wrapped for distributed training or not.
        criterion: predictions and targets to losses.
        optimizer: over the model's parameters.
        schedule: the learning rate of each step.
        scaler: the loss scaler, disabled without float16.
        ema: the weight average, None for none.
        device: where the work is done.
        dtype: mixed-precision type, None for full precision.
        channels_last: memory format of the images.
        clip_norm: largest global gradient norm.
        freeze_bn: keep batch norms in evaluation mode.
        max_nonfinite: skipped steps in a row that end the run.
        step: steps done, skipped ones too.
    """

    model: nn.Module
    criterion: DetectionLoss
    optimizer: torch.optim.Optimizer
    schedule: RateSchedule
    scaler: torch.amp.GradScaler
    ema: ModelEma | None
    device: torch.device
    dtype: torch.dtype | None = None
    channels_last: bool = True
    clip_norm: float = 10.0
    freeze_bn: bool = False
    max_nonfinite: int = 50
    step: int = 0
    statistics: RunningStatistics = field(init=False)

    def __post_init__(self) -> None:
        self.statistics = RunningStatistics(self.bare_model)
        # Skipped steps: of the whole run, and in a row until now.
        self._skipped = torch.zeros(2, dtype=torch.int64, device=self.device)

    @property
    def bare_model(self) -> nn.Module:
        """The model without the wrapper of distributed training."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.module
        return self.model

    @property
    def skipped(self) -> tuple[int, int]:
        """Skipped steps of the run, and in a row until now; reading it waits for the device."""
        total, in_a_row = self._skipped.tolist()
        return total, in_a_row

    @skipped.setter
    def skipped(self, counts: tuple[int, int]) -> None:
        self._skipped.copy_(torch.tensor(counts))

    def weights_to_validate(self, wanted: WeightsToValidate = "both") -> dict[str, nn.Module]:
        """The averaged model (``ema``), the one that is trained (``raw``), or both.

        They are made equal on all processes. Without an average there is only ``raw``.
        """
        models = {"raw": self.bare_model}
        if self.ema is not None:
            models = {"ema": self.ema.module, **models}
            models = models if wanted == "both" else {wanted: models[wanted]}
        for model in models.values():
            distributed.synchronize_buffers(model)
        return models

    def set_train_mode(self) -> None:
        """Training mode; what is frozen, batch norms too, is left in evaluation mode."""
        set_train_mode(self.model, freeze_bn=self.freeze_bn)

    def freeze(self, names: Collection[str]) -> bool:
        """From the next step on all parameters of the model learn but those of ``names``.

        What was in the optimizer for the others stays. Distributed training begins with a new
        wrapper, which sends the gradients of the learning parameters alone: see :meth:`rehearse`.

        Args:
            names: of parameters, among them all that the trainer was made without.

        Returns:
            Whether that is a change.
        """
        model, wrapped = self.bare_model, isinstance(self.model, DistributedDataParallel)
        if is_frozen_as(model, names):
            return False
        self.model = model
        gc.collect()  # the old wrapper goes first: it listens to the parameters until then
        freeze(model, names)
        renew_state(self.optimizer)
        if wrapped:
            self.model = distributed.wrap(model, self.device)
        return True

    def train_step(self, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], Tensor]:
        """Forward and backward of each batch, then one update; nothing waits for the device.

        Returns:
            The losses and the gradient norm, and whether the step was skipped: scalars.
        """
        self.schedule.apply(self.optimizer, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.statistics.keep()
        losses = self.backward(batches)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        skipped = ~norm.isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            step_unless(self.optimizer, skipped.float())
        self.statistics.take_back(skipped)
        if self.ema is not None:
            self.ema.update(self.bare_model, skipped.float())
        self._skipped += skipped
        self._skipped[1] *= skipped
        self.step += 1
        return losses | {"grad_norm": norm}, skipped

    def backward(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The losses of a step and, in the parameters, their gradients times the loss scale."""
        batches = [batch.to(self.device, self.channels_last) for batch in batches]
        assignments = [self.criterion.assign(batch) for batch in batches]
        normalizer = self.criterion.normalizer(assignments)
        scale = self.loss_scale()
        parts = []
        for number, (batch, assignment) in enumerate(zip(batches, assignments, strict=True), 1):
            with self._reduction(last=number == len(batches)):
                with autocast(self.device, self.dtype):
                    cls_logits, box_deltas = self.model(batch.images)
                losses = self.criterion(cls_logits, box_deltas, assignment, normalizer, scale)
                self.scaler.scale(losses["loss"]).backward()
            parts.append({name: loss.detach() for name, loss in losses.items()})
        return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}

    def rehearse(self, image_size: tuple[int, int], batch_size: int, accumulate: int) -> None:
        """Forward and backward of a step of empty images, which leaves no trace.

        Afterwards the memory for images of this size is known to suffice, and the wrapper has put
        the gradients into the order in which it will add them up from now on: a run that goes on
        does so in the bits in which it would have gone on.

        Args:
            image_size: the largest ``(height, width)``.
            batch_size: images a batch.
            accumulate: batches a step.
        """
        images = torch.zeros(batch_size, 3, *image_size, device=self.device)
        batch = Batch(images=images, targets=[Target.without_boxes(image_size)] * batch_size)
        with unchanged(self.bare_model, self.device):
            self.set_train_mode()
            self.backward([batch] * accumulate)

    def loss_scale(self) -> Tensor | None:
        """What the scaler will multiply the loss by; None without a scaler."""
        if not self.scaler.is_enabled():
            return None
        return self.scaler.scale(torch.ones((), device=self.device))

    def check(self) -> int:
        """See that the run still makes steps; waits for the device.

        Returns:
            Skipped steps in a row until now.

        Raises:
            DivergedError: where too many were skipped, or the loss scale has collapsed.
        """
        total, in_a_row = self.skipped
        if in_a_row >= self.max_nonfinite:
            raise DivergedError(
                f"no finite gradients in {in_a_row} steps, up to step {self.step}; {_ADVICE}"
            )
        if in_a_row and self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            if scale < SMALLEST_SCALE:
                raise DivergedError(
                    f"the loss scale fell to {scale:g} at step {self.step}, {total} steps were "
                    f"skipped; {_ADVICE}"
                )
        return in_a_row

    def _reduction(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the processes after the last batch of a step only."""
        if not last and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed what is drawn in ``epoch`` (stochastic depth), so that a resumed run repeats it.

    Nothing here draws from the generators of Python and numpy, but a dataset or model may.
    """
    number = (seed * 1_000_003 + epoch) * 4_096 + distributed.rank()
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - the global one


def train_one_epoch(
    trainer: Trainer,
    loader: Iterable[Batch],
    meter: Meter,
    *,
    accumulate: int = 1,
    log_every: int,
    report: Callable[[int, dict[str, float]], None],
    after_step: Callable[[int], None] = lambda images: None,
) -> None:
    """Train on the batches of ``loader``: an epoch's, or what is left of them.

    Args:
        trainer: model, loss, optimizer and the rest.
        loader: a whole number of steps.
        meter: of this epoch; it counts every step.
        accumulate: batches a step.
        log_every: steps between reports.
        report: called with the steps done in this epoch and the mean values since the last call.
        after_step: called with the images of all processes that the step has used.

    Raises:
        DivergedError: when no step can be taken any more, with the batches of the last one.
        AnomalyError: where torch's anomaly detection has found an operation.
    """
    trainer.set_train_mode()
    every = min(log_every, trainer.max_nonfinite)
    in_a_row = trainer.check()
    ready = time.perf_counter()
    for batches in _in_steps(loader, accumulate):
        waited = time.perf_counter() - ready
        with _explained_anomaly(trainer.step + 1, batches):
            values, skipped = trainer.train_step(batches)
        images = sum(map(len, batches))
        meter.add(values, skipped, images, waited)
        # The device is waited for at these steps, and at every step while none can be taken.
        if in_a_row or meter.steps % every == 0:
            try:
                in_a_row = trainer.check()
            except DivergedError as error:
                error.batches = list(batches)
                raise
        if meter.steps % log_every == 0:
            report(meter.steps, meter.report() | {"lr": trainer.schedule(trainer.step - 1)})
        after_step(images * distributed.world_size())
        ready = time.perf_counter()


@contextmanager
def _explained_anomaly(step: int, batches: list[Batch]) -> Iterator[None]:
    """What torch's anomaly detection has found, as the end of a run that diverged."""
    try:
        yield
    except RuntimeError as error:
        if not torch.is_anomaly_enabled() or "returned nan values" not in str(error):
            raise
        found = AnomalyError(f"{error} in step {step}; the call that led to it is printed above")
        found.batches = batches
        raise found from error


def _in_steps(loader: Iterable[Batch], accumulate: int) -> Iterator[list[Batch]]:
    batches = iter(loader)
    while step := list(itertools.islice(batches, accumulate)):
        yield step
