# SPDX-License-Identifier: Apache-2.0
"""The options of ``train.py``, as ``--help`` lists them."""

from dataclasses import dataclass
from typing import Literal

from effdet.config import Fusion, Padding
from effdet.flags import option
from effdet.settings import shared_help
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
)

DEFAULT_MODEL = "efficientdet_d0"
"""What is trained where neither the options nor the weights say it."""

UNFREEZE_LR_FACTOR = 1.0
"""Default factor on the rates after ``--freeze-epochs``."""

USUAL_LR: dict[Optimizer, float] = {"sgd": 0.08, "adamw": 0.008}
"""At a global batch of 64, by optimizer: those of the presets ``paper`` and ``finetune``."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataConfig, PostprocessConfig):
    """What can be chosen; :class:`~effdet.settings.train.TrainConfig` says what goes together.

    The defaults are google/automl's for COCO.
    """

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
