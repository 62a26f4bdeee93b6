# SPDX-License-Identifier: Apache-2.0
"""Settings of ``train.py``: its options, and which of them go together."""

import dataclasses
import math
from dataclasses import dataclass

from effdet.config import MAX_IMAGE_SIZE, ClassifierConfig, ModelConfig
from effdet.errors import SettingError, UsageError
from effdet.settings.data import DataConfig
from effdet.settings.postprocess import PostprocessConfig
from effdet.settings.train_model import model_to_train, settle
from effdet.settings.train_options import UNFREEZE_LR_FACTOR, TrainOptions
from effdet.settings.values import require, require_amp, require_input

MAX_JITTER = 100
"""Times the size of an image; the picture would be of a few of its pixels."""

MAX_WORKERS = 1000
"""Loader processes; starting more of them takes a machine down before it says anything."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainOptions):
    """Settings of ``train.py``."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        PostprocessConfig.__post_init__(self)
        self._check_ranges()
        self._check_pairs()
        self._check_transfer()
        self._check_schedule()
        self._check_sizes()

    def _check_ranges(self) -> None:
        # fmt: off
        positive = (
            "epochs", "accumulate", "progressive", "lr", "clip_norm", "max_nonfinite",
            "eval_every", "eval_from", "log_every", "unfreeze_lr_factor",
        )
        at_least_0 = (
            "warmup_lr", "min_lr", "warmup_epochs", "cooldown_epochs", "weight_decay", "gamma",
            "box_loss_weight", "save_minutes", "save_every", "keep", "patience", "freeze_epochs",
        )
        # fmt: on
        require(self, positive, lambda v: 0 < v < math.inf, "finite and above 0")
        require(self, at_least_0, lambda v: 0 <= v < math.inf, "finite and at least 0")
        # Waiting for a loader worker is counted in milliseconds of 31 bits.
        require(self, ("timeout",), lambda v: 1 <= v <= 1e6, "seconds in [1, 1e6]")
        require(self, ("box_loss_weight",), lambda v: v < 2.0**127, "finite in float32")
        for name in ("batch_size", "sync_bn"):
            if isinstance(getattr(self, name), int):
                require(self, (name,), lambda v: v > 0, "above 0")
        below_1 = ("momentum", "ema_decay", "label_smoothing")
        require(self, below_1, lambda v: 0 <= v < 1, "in [0, 1)")
        require(self, ("alpha", "flip"), lambda v: 0 <= v <= 1, "in [0, 1]")
        if self.workers is not None:
            require(self, ("workers",), lambda v: v >= 0, "at least 0")
            require(self, ("workers",), lambda v: v <= MAX_WORKERS, f"at most {MAX_WORKERS}")
        require(self, ("seed",), lambda v: 0 <= v < 2**32, "in [0, 2^32)")

    def _check_pairs(self) -> None:
        require_amp(self.amp, self.amp_dtype)
        if self.weights and self.backbone_weights:
            raise UsageError("give --weights or --backbone-weights, not both")
        if self.ema_decay == 0 and self.eval_weights == "ema":
            raise UsageError("--eval-weights ema needs averaged weights: --ema-decay above 0")
        if self.freeze_bn and self.sync_bn != 1:
            raise UsageError("give --freeze-bn or --sync-bn: frozen batch norms share nothing")
        if self.resume == "auto" and self.output is None:
            raise UsageError("--resume auto needs --output, the folder of the run to go on with")

    def _check_transfer(self) -> None:
        require_input(self.mean, self.std)
        if self.partial_weights and self.weights is None:
            raise UsageError("--partial-weights is about --weights; give these too")
        started = self.weights is not None or self.backbone_weights is not None
        if self.freeze_epochs and not started:
            raise UsageError(
                "--freeze-epochs needs --weights or --backbone-weights: what is random must learn"
            )
        if self.freeze_epochs >= self.epochs:
            raise SettingError(
                "freeze_epochs",
                f"must be below the {self.epochs} epochs, got {self.freeze_epochs}; "
                "--freeze is for the whole run",
            )
        if self.unfreeze_lr_factor != UNFREEZE_LR_FACTOR and not self.freeze_epochs:
            raise UsageError("--unfreeze-lr-factor does nothing without --freeze-epochs")
        _ = self.factors

    def _check_schedule(self) -> None:
        if self.min_lr > self.lr:
            raise SettingError(
                "min_lr", f"must be at most the --lr of {self.lr}, got {self.min_lr}"
            )
        falls_to_it = self.schedule in ("cosine", "nvidia") or self.cooldown_epochs > 0
        if self.min_lr > 0 and not falls_to_it:
            raise UsageError(
                f"--min-lr does nothing with --schedule {self.schedule} and without "
                "--cooldown-epochs; leave it out or give these"
            )
        if self.lr_noise is not None and self.schedule != "nvidia":
            raise UsageError("--lr-noise is part of --schedule nvidia")
        if self.lr_noise is not None and not 0 <= self.lr_noise[0] < self.lr_noise[1] <= 1:
            raise SettingError(
                "lr_noise",
                "must be two parts of the run, in [0, 1] and rising, got "
                f"{self.lr_noise[0]} {self.lr_noise[1]}",
            )
        if self.cooldown_epochs and self.min_lr == 0:
            raise UsageError("--cooldown-epochs needs a --min-lr above 0: at 0 nothing is learnt")

    def _check_sizes(self) -> None:
        require(self, ("jitter_max",), lambda v: 0 < v <= MAX_JITTER, f"in (0, {MAX_JITTER}]")
        most = f"above 0 and at most the --jitter-max of {self.jitter_max:g}"
        require(self, ("jitter_min",), lambda v: 0 < v <= self.jitter_max, most)
        if self.multi_scale is not None and not (
            0 < self.multi_scale[0] <= self.multi_scale[1] < math.inf
        ):
            raise SettingError(
                "multi_scale",
                "must be two factors, above 0 and rising, got "
                f"{self.multi_scale[0]} {self.multi_scale[1]}",
            )
        if self.multi_scale is not None and self.progressive > 1:
            raise UsageError("give --multi-scale or --progressive, not both")
        if self.progressive > self.total_epochs:
            raise SettingError(
                "progressive",
                f"must be at most the {self.total_epochs} epochs, got {self.progressive}",
            )
        model = self.model_config(num_classes=1)  # an unknown model is better told at once
        largest_factor = MAX_IMAGE_SIZE / max(model.image_size)
        if self.multi_scale is not None and self.multi_scale[1] > largest_factor:
            raise SettingError(
                "multi_scale",
                f"must be at most {largest_factor:g}, where images have "
                f"{MAX_IMAGE_SIZE} pixels a side, got {self.multi_scale[1]:g}",
            )
        if self.batch_size == 1 and self.smallest_batch == 2:
            raise UsageError(
                "batch norm cannot train on one image whose coarsest level is one cell; give "
                f"--batch-size 2, --freeze-bn or more than {2**model.max_level} pixels a side"
            )

    @property
    def factors(self) -> tuple[tuple[str, float], ...]:
        """The names of ``lr_factors`` and their numbers."""
        return tuple(_factor(text) for text in self.lr_factors)

    @property
    def frozen_at_first(self) -> tuple[str, ...]:
        """The parts that ``freeze_epochs`` is about: what the weights hold below the heads."""
        if not self.freeze_epochs:
            return ()
        return ("backbone",) if self.weights is None else ("backbone", "bifpn")

    @property
    def smallest_batch(self) -> int:
        """Images that batch norm needs: two where the coarsest level has one cell."""
        model = self.model_config(num_classes=1)
        coarsest = max(-(-side // 2**model.max_level) for side in model.image_size)
        return 2 if coarsest == 1 and not self.freeze_bn else 1

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole run, the ones at the lowest rate included."""
        return self.epochs + self.cooldown_epochs

    @property
    def images_per_pass(self) -> int:
        """The batch size, which must be a number by now."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    def images_per_step(self, processes: int) -> int:
        """The global batch of one optimizer step."""
        return self.images_per_pass * self.accumulate * processes

    def model_config(self, num_classes: int) -> ModelConfig:
        """The configuration of the model to train."""
        return model_to_train(self, num_classes)

    def settled(self, like: ModelConfig | ClassifierConfig | None) -> "TrainConfig":
        """With all of :data:`~effdet.settings.SETTLED` that was left open.

        Args:
            like: the detector or the classifier to start from; None for random weights.
        """
        return dataclasses.replace(self, **settle(self, like))


def _factor(text: str) -> tuple[str, float]:
    """``backbone`` and 0.1 of ``backbone=0.1``."""
    name, _, number = text.partition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not name or not 0 < factor < math.inf:
        raise SettingError(
            "lr_factors",
            f"must be a name, = and a number above 0, as backbone=0.1, got {text!r}; "
            "what shall not learn goes to --freeze",
        )
    return name, factor
