# SPDX-License-Identifier: Apache-2.0
"""Settings of ``train.py``."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from effdet.config import (
    MAX_IMAGE_SIZE,
    MODELS,
    ClassifierConfig,
    Fusion,
    ModelConfig,
    Padding,
    model_config,
    size_pair,
)
from effdet.errors import UsageError
from effdet.flags import option
from effdet.settings import shared_help
from effdet.settings.anchors import format_anchors, parse_anchors
from effdet.settings.data import DataConfig
from effdet.settings.postprocess import PostprocessConfig
from effdet.settings.values import (
    AmpDtype,
    Console,
    Evaluator,
    Normalizer,
    Optimizer,
    Schedule,
    Sink,
    WeightsToValidate,
    require,
    require_amp,
    require_input,
)

MAX_JITTER = 100
"""Times the size of an image; the picture would be of a few of its pixels."""

MAX_WORKERS = 1000
"""Loader processes; starting more of them takes a machine down before it says anything."""

DEFAULT_MODEL = "efficientdet_d0"
"""What is trained where neither the options nor the weights say it."""

UNFREEZE_LR_FACTOR = 1.0
"""Default factor on the rates after ``--freeze-epochs``."""


USUAL_LR: dict[Optimizer, float] = {"sgd": 0.08, "adamw": 0.008}
"""At a global batch of 64, by optimizer: those of the presets ``paper`` and ``finetune``."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig, PostprocessConfig):
    """Settings of ``train.py``; the defaults are google/automl's for COCO."""

    data: str = option(
        "shapes",
        metavar="DIR",
        help=shared_help.DATA,
        group="data",
    )
    train_split: str = option("train", metavar="NAME", help="split to train on")
    val_split: str = option("val", metavar="NAME", help="split to validate on")
    train_annotations: str | None = option(
        None, metavar="FILE", help="COCO JSON or CSV file instead of --train-split's"
    )
    train_images: str | None = option(None, metavar="DIR", help="folder of the training images")
    val_annotations: str | None = option(
        None, metavar="FILE", help="COCO JSON or CSV file instead of --val-split's"
    )
    val_images: str | None = option(None, metavar="DIR", help="folder of the validation images")
    model: str | None = option(
        None,
        help=f"model name, see `effdet info` (default: of the weights, or {DEFAULT_MODEL})",
        group="model",
    )
    image_size: tuple[int, ...] | None = option(None, help=shared_help.IMAGE_SIZE)
    padding: Padding | None = option(
        None, help="convolutions as TensorFlow (same) or PyTorch (default: of the weights, or same)"
    )
    backbone_padding: Padding | None = option(None, help="padding of the backbone alone")
    fusion: Fusion | None = option(None, help="BiFPN fusion instead of the model's own")
    anchors: str | None = option(
        None,
        help="aspect ratios@scale x sizes an octave, as 1,2,0.5@4x3, instead of the model's own",
    )
    survival_prob: float | None = option(
        None, help="chance to keep the backbone's last block in training instead of the model's own"
    )
    backbone_bn_eps: float | None = option(
        None, help="what the backbone's batch norms add to a variance instead of the model's own"
    )
    mean: tuple[float, float, float] | None = option(
        None, help="subtracted from RGB values in 0-255 instead of the model's own"
    )
    std: tuple[float, float, float] | None = option(
        None, help="divides them after that instead of the model's own"
    )
    weights: str | None = option(
        None,
        metavar="FILE",
        help="detector to fine-tune: a file of any known kind, or a public name",
        group="weights to begin with",
    )
    partial_weights: bool = option(
        False, help="take of --weights what fits by name and shape; the rest begins at random"
    )
    backbone_weights: str | None = option(
        None,
        metavar="FILE",
        help="ImageNet classifier to take the backbone of: a file, or a public name",
    )
    freeze: tuple[str, ...] = option(
        (),
        metavar="PART",
        help="parts that never learn: backbone, bifpn, class_head, box_head, names with * and ?",
    )
    freeze_epochs: int = option(
        0, help="first epochs, in which the backbone, with --weights the BiFPN too, does not learn"
    )
    output: str | None = option(
        None, metavar="DIR", help="run folder to create (default: runs/MODEL-N)", group="the run"
    )
    resume: str | None = option(
        None,
        metavar="RUN",
        help="checkpoint or run folder to continue; auto: --output's run, or a new one if none",
        in_file=False,
    )
    epochs: int = option(300, help="passes over the training set", group="batches and epochs")
    batch_size: int | Literal["auto"] = option(
        8, help="images a process and forward pass; auto: as many as the GPU holds"
    )
    accumulate: int = option(1, help="forward passes whose gradients make one step")
    normalizer: Normalizer = option(
        "global", help="foreground anchors that losses are divided by: of all processes, or of each"
    )
    sync_bn: int | Literal["all"] = option(
        1, help="processes that share batch-norm statistics: a divisor of their number, or all"
    )
    multi_scale: tuple[float, float] | None = option(
        None, help="range of a factor on the size of training images, drawn for each step"
    )
    progressive: int = option(1, help="stages of equal length in which training images grow")
    lr: float = option(
        USUAL_LR["sgd"],
        help="learning rate at a global batch of 64, scaled with the batch",
        group="optimization",
    )
    unfreeze_lr_factor: float = option(
        UNFREEZE_LR_FACTOR, help="factor on the rates of the epochs after --freeze-epochs"
    )
    lr_factors: tuple[str, ...] = option(
        (),
        metavar="PART=X",
        help="factors on the rates of parts, such as backbone=0.1; names as for --freeze",
    )
    warmup_lr: float = option(0.008, help="learning rate at the first step, scaled alike")
    warmup_epochs: float = option(1.0, help="epochs of linear warm-up, at most half the run")
    optimizer: Optimizer = option("sgd", help="sgd with momentum, or adamw")
    schedule: Schedule = option("cosine", help="decay of the learning rate; automl: as published")
    min_lr: float = option(0.0, help="learning rate that cosine and nvidia end at, scaled alike")
    cooldown_epochs: int = option(0, help="epochs at --min-lr after --epochs")
    lr_noise: tuple[float, float] | None = option(
        None, help="part of the run, 0-1, in which nvidia's rate is multiplied by noise"
    )
    momentum: float = option(0.9, help="momentum of SGD, first beta of AdamW")
    weight_decay: float = option(4e-5, help="decay of convolution kernels")
    clip_norm: float = option(10.0, help="gradients are scaled down to this global norm")
    ema_decay: float = option(0.9998, help="decay of the weight average, 0 for none")
    alpha: float = option(0.25, help="focal loss: weight of the foreground, 0-1", group="losses")
    gamma: float = option(1.5, help="focal loss: exponent that plays down easy anchors")
    label_smoothing: float = option(0.0, help="focal loss: smoothing of the labels, below 1")
    box_loss_weight: float = option(50.0, help="weight of the box loss")
    jitter_min: float = option(0.1, help="smallest scale of training images", group="augmentation")
    jitter_max: float = option(2.0, help="largest scale of training images")
    flip: float = option(0.5, help="chance to mirror a training image")
    freeze_bn: bool = option(
        False, help="keep batch-norm statistics as they are", group="precision and devices"
    )
    amp: bool = option(False, help="mixed precision: float16 with a GradScaler on CUDA")
    amp_dtype: AmpDtype | None = option(None, help="precision of --amp (bfloat16 on CPU)")
    tf32: bool = option(True, help="TensorFloat-32 for float32 work on GPUs that have it")
    max_nonfinite: int = option(50, help="steps in a row without finite gradients that end the run")
    detect_anomaly: bool = option(False, help="name the operation that made a NaN (slow)")
    channels_last: bool = option(True, help=shared_help.CHANNELS_LAST)
    device: str | None = option(None, help=shared_help.DEVICE)
    workers: int | None = option(None, help=shared_help.LOADERS)
    timeout: float = option(600.0, help="seconds without progress after which a run is given up")
    seed: int = option(0, help="seed of weights, order and augmentation")
    save_minutes: float = option(
        15.0,
        help="minutes between checkpoints in an epoch, 0 for none",
        group="checkpoints and validation",
    )
    save_every: int = option(0, help="epochs between checkpoints that are kept, 0 for none")
    keep: int = option(3, help="newest checkpoints to keep of those of --save-every, 0 for all")
    eval_every: int = option(1, help="epochs between validations")
    eval_from: int = option(1, help="first epoch that is validated")
    eval_weights: WeightsToValidate = option("both", help="validate averaged weights, raw, or both")
    patience: int = option(0, help="validations without a higher AP that end the run, 0: no limit")
    log_every: int = option(20, help="steps between printed and logged lines", group="logs")
    console: Console = option("auto", help="a bar on a terminal, lines, or dllogger's lines")
    log_to: tuple[Sink, ...] = option((), help="also log to these, which must be installed")
    evaluator: Evaluator = option("faster", help=shared_help.EVALUATOR)

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        PostprocessConfig.__post_init__(self)
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
        require_amp(self.amp, self.amp_dtype)
        if self.weights and self.backbone_weights:
            raise UsageError("give --weights or --backbone-weights, not both")
        if self.ema_decay == 0 and self.eval_weights == "ema":
            raise UsageError("--eval-weights ema needs averaged weights: --ema-decay above 0")
        if self.freeze_bn and self.sync_bn != 1:
            raise UsageError("give --freeze-bn or --sync-bn: frozen batch norms share nothing")
        if self.resume == "auto" and self.output is None:
            raise UsageError("--resume auto needs --output, the folder of the run to go on with")
        self._check_transfer()
        self._check_schedule()
        self._check_sizes()

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
            raise UsageError(
                f"freeze_epochs must be below the {self.epochs} epochs, got {self.freeze_epochs}; "
                "--freeze is for the whole run"
            )
        if self.unfreeze_lr_factor != UNFREEZE_LR_FACTOR and not self.freeze_epochs:
            raise UsageError("--unfreeze-lr-factor does nothing without --freeze-epochs")
        _ = self.factors

    def _check_schedule(self) -> None:
        if self.min_lr > self.lr:
            raise UsageError(f"min_lr must be at most lr, got {self.min_lr} and {self.lr}")
        falls_to_it = self.schedule in ("cosine", "nvidia") or self.cooldown_epochs > 0
        if self.min_lr > 0 and not falls_to_it:
            raise UsageError(
                f"--min-lr does nothing with --schedule {self.schedule} and without "
                "--cooldown-epochs; leave it out or give these"
            )
        if self.lr_noise is not None and self.schedule != "nvidia":
            raise UsageError("--lr-noise is part of --schedule nvidia")
        if self.lr_noise is not None and not 0 <= self.lr_noise[0] < self.lr_noise[1] <= 1:
            raise UsageError(
                "lr_noise must be two parts of the run, in [0, 1] and rising, got "
                f"{self.lr_noise[0]} {self.lr_noise[1]}"
            )
        if self.cooldown_epochs and self.min_lr == 0:
            raise UsageError("--cooldown-epochs needs a --min-lr above 0: at 0 nothing is learnt")

    def _check_sizes(self) -> None:
        if not 0 < self.jitter_min <= self.jitter_max <= MAX_JITTER:
            raise UsageError(
                f"jitter_min must be above 0 and at most jitter_max, and that {MAX_JITTER}, got "
                f"{self.jitter_min} and {self.jitter_max}"
            )
        if self.multi_scale is not None and not (
            0 < self.multi_scale[0] <= self.multi_scale[1] < math.inf
        ):
            raise UsageError(
                "multi_scale must be two factors, above 0 and rising, got "
                f"{self.multi_scale[0]} {self.multi_scale[1]}"
            )
        if self.multi_scale is not None and self.progressive > 1:
            raise UsageError("give --multi-scale or --progressive, not both")
        if self.progressive > self.total_epochs:
            raise UsageError(
                f"progressive must be at most the {self.total_epochs} epochs, "
                f"got {self.progressive}"
            )
        model = self.model_config(num_classes=1)  # an unknown model is better told at once
        largest_factor = MAX_IMAGE_SIZE / max(model.image_size)
        if self.multi_scale is not None and self.multi_scale[1] > largest_factor:
            raise UsageError(
                f"multi_scale must be at most {largest_factor:g}, where images have "
                f"{MAX_IMAGE_SIZE} pixels a side, got {self.multi_scale[1]:g}"
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
        changes: dict[str, Any] = {"num_classes": num_classes, "padding": self.padding or "same"}
        if self.image_size is not None:
            changes["image_size"] = size_pair(self.image_size)
        if self.anchors is not None:
            changes |= parse_anchors(self.anchors)
        for name in _MODEL_FIELDS:
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return model_config(self.model or DEFAULT_MODEL, **changes)

    def settled(self, like: ModelConfig | ClassifierConfig | None) -> "TrainConfig":
        """With all of :data:`SETTLED` that was left open as the model of the weights has it.

        Args:
            like: the detector or the classifier to start from; None for random weights.
        """
        model = self.model or _model_like(like)
        if like is None:
            return dataclasses.replace(self, model=model, padding=self.padding or "same")
        changes: dict[str, Any] = {"model": model, "padding": self.padding or like.padding}
        own = dataclasses.replace(MODELS[model], padding=changes["padding"])
        wanted: dict[str, Any] = {"mean": like.mean, "std": like.std}
        eps = like.backbone_eps if isinstance(like, ModelConfig) else like.bn_eps
        if isinstance(like, ModelConfig):
            wanted |= {"fusion": like.fusion, "backbone_padding": like.backbone_padding}
            if self.model is None:
                wanted["image_size"] = like.image_size
        for name, value in wanted.items():
            if getattr(self, name) is None and value != getattr(own, name):
                changes[name] = value
        if isinstance(like, ModelConfig) and like.name == model:  # others have their own
            theirs = format_anchors(like)
            if self.anchors is None and theirs != format_anchors(own):
                changes["anchors"] = theirs
        usual = dataclasses.replace(own, backbone_padding=changes.get("backbone_padding"))
        if self.backbone_bn_eps is None and eps != usual.backbone_eps:
            changes["backbone_bn_eps"] = eps
        return dataclasses.replace(self, **changes)


_MODEL_FIELDS = (
    "backbone_padding", "fusion", "survival_prob", "backbone_bn_eps", "mean", "std",
)  # fmt: skip
"""Settings that change the field of the model with their name where they are given."""

SETTLED = (
    "model", "padding", "backbone_padding", "fusion", "backbone_bn_eps", "mean", "std",
    "image_size", "anchors",
)  # fmt: skip
"""Settings that come from the weights where they are not given."""


def _factor(text: str) -> tuple[str, float]:
    """``backbone`` and 0.1 of ``backbone=0.1``."""
    name, _, number = text.partition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not name or not 0 < factor < math.inf:
        raise UsageError(
            f"lr_factors must be a name, = and a number above 0, as backbone=0.1, got {text!r}; "
            "what shall not learn goes to --freeze"
        )
    return name, factor


def _model_like(like: ModelConfig | ClassifierConfig | None) -> str:
    """The model to train where no option names one."""
    if isinstance(like, ModelConfig):
        return like.name
    if like is None:
        return DEFAULT_MODEL
    return next(m.name for m in MODELS.values() if m.backbone == like.backbone)
