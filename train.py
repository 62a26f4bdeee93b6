# SPDX-License-Identifier: Apache-2.0
"""Train an EfficientDet.

    python train.py --data DIR --model efficientdet_d0 --output runs/mine
    torchrun --nproc-per-node 8 train.py --data DIR --amp

Without ``--data`` the built-in set of shapes is used; ``--help`` lists every option.
"""

import contextlib
import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from effdet import __version__, distributed, flags, processes
from effdet.anchors import Anchors, num_anchors
from effdet.config import ModelConfig
from effdet.counts import counted
from effdet.data import (
    CocoDataset,
    EvalTransform,
    ImageSizes,
    Loader,
    SplitFiles,
    TrainTransform,
    build_eval_loader,
    build_train_loader,
    locate_split,
    read_split,
)
from effdet.errors import UsageError, run
from effdet.evaluation import (
    CocoEvaluator,
    GroundTruth,
    Metrics,
    Results,
    diagnose,
    evaluate,
    finds_nothing,
)
from effdet.metrics import RunLog
from effdet.metrics.sinks import require_installed
from effdet.models import EfficientDet, build_model, trainable_parameters
from effdet.postprocess import Postprocess
from effdet.precision import autocast_dtype, set_tf32, slow_amp_warning
from effdet.presets import ABOUT, PRESETS
from effdet.report.keep import Keepsakes, Validation
from effdet.settings import TrainConfig, select_postprocess
from effdet.structures import ClassMap
from effdet.training import (
    BEST,
    Attendant,
    Checkpointer,
    Control,
    Freezing,
    Peers,
    Progress,
    Resumed,
    Run,
    Trainer,
    build_trainer,
    explain_memory_errors,
    freeze,
    goes_on,
    open_run,
    plan_freezing,
    report,
    saved_settings,
    seed_epoch,
    train_one_epoch,
    with_batch_size,
)
from effdet.weights import (
    Checkpoint,
    Classifier,
    Taken,
    load_classifier,
    load_detector,
    transfer_backbone,
    transfer_weights,
)

GROUP_SECONDS = 60.0
"""How much longer than the watch over the processes their group waits."""


def main() -> None:
    """Read the options, train, and leave a run folder."""
    config = flags.parse(
        TrainConfig,
        sys.argv[1:],
        program="train.py",
        description="Train an EfficientDet on a data set: COCO, VOC, YOLO or CSV.",
        presets=PRESETS,
        about_presets=ABOUT,
        saved=saved_settings,
    )
    if distributed.is_launched():
        processes.die_with_parent()
    device = distributed.pick_device(config.device)
    check_possible(config, device)
    config, initial = read_initial_weights(config)
    # The watch over the processes knows more about who hangs than the group: it goes first.
    with distributed.process_group(device, config.timeout + GROUP_SECONDS):
        train(config, device, initial)


def check_possible(config: TrainConfig, device: torch.device) -> None:
    """Refuse what cannot work on this machine before a folder is made for it.

    Raises:
        UsageError, DataError, WeightsError: for what is not there.
    """
    if config.batch_size == "auto" and device.type != "cuda":
        raise UsageError("--batch-size auto needs a GPU; give a number")
    autocast_dtype(device, config.amp, config.amp_dtype)
    require_installed(config.log_to)
    locate_datasets(config)


Initial = Checkpoint | Classifier | None
"""What a run begins with: a detector, a classifier with a backbone, or random weights."""


def read_initial_weights(config: TrainConfig) -> tuple[TrainConfig, Initial]:
    """The weights to begin with, and the settings with what they say of the model.

    A run that goes on has no need of them any more.

    Raises:
        UsageError, WeightsError: where there is no such file or name, or nothing of use in it.
    """
    if goes_on(config):
        return config, None
    if config.weights is not None:
        detector = load_detector(config.weights, model=config.model, padding=config.padding)
        return config.settled(detector.model_config), detector
    if config.backbone_weights is not None:
        classifier = load_classifier(config.backbone_weights, padding=config.padding)
        return config.settled(classifier.config), classifier
    return config.settled(None), None


def train(config: TrainConfig, device: torch.device, initial: Initial) -> None:
    """The whole run, on every process."""
    torch.manual_seed(config.seed)
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    set_tf32(config.tf32)
    with contextlib.ExitStack() as stack:
        # The folder, and who watches over the run
        run = open_run(config, stack)
        config = run.config
        # Signals first, until the end: one that comes while the others leave must not stop them.
        control = stack.enter_context(Control(config.save_minutes))
        log = stack.enter_context(build_log(config, run))
        peers = stack.enter_context(Peers(config.timeout, on_end=log.give_up, program="train.py"))

        # Data
        train_set, val_set, truth = build_datasets(config)
        class_map = train_set.class_map
        model_config = config.model_config(num_classes=len(class_map))
        sizes = image_sizes(config, model_config)

        # Model
        model = build_model(model_config, channels_last=config.channels_last)
        taken = take_initial_weights(model, config, class_map, run.resumed, initial)
        freezing = freeze_parts(model, config, taken)
        model.to(device)
        anchors = Anchors(model_config, device)
        postprocess = build_postprocess(config, anchors, class_map)

        # Optimization
        config = with_batch_size(config, model, anchors, sizes.largest, device, run.resumed)
        train_loader, val_loader = build_loaders(
            config, model_config, sizes, train_set, val_set, device
        )
        step_images = config.images_per_step(distributed.world_size())
        steps_per_epoch = len(train_set) // step_images
        trainer = build_trainer(config, model, anchors, steps_per_epoch, device)
        rehearse = functools.partial(
            trainer.rehearse, sizes.largest, config.images_per_pass, config.accumulate
        )
        memory_errors = explain_memory_errors(config, sizes.largest, device)
        if distributed.world_size() > 1 or config.freeze_epochs:
            with memory_errors():
                rehearse()

        # Where it goes on
        progress = Progress(records={"train": train_loader.record, "val": val_loader.record})
        checkpointer = Checkpointer(
            log.folder, config, model_config, class_map, steps_per_epoch, log.warn
        )
        history = restore(run.resumed, checkpointer, trainer, progress)
        log.steps_per_epoch = steps_per_epoch
        log.resume_at(trainer.step, history)
        introduce(log, config, model_config, trainer, train_set, val_set, train_loader)
        log.say(f"weights  {taken.line}")
        keepsakes = Keepsakes(log.folder, log.warn)
        keepsakes.labels({"train": train_set, "val": val_set}, model_config.image_size)

        # Every epoch: train, validate, log, save
        attendant = Attendant(
            trainer=trainer,
            progress=progress,
            checkpointer=checkpointer,
            control=control,
            peers=peers,
            log=log,
            step_images=step_images,
        )
        while not is_over(config, progress):
            begin_phase(trainer, freezing.in_epoch(progress.epoch), rehearse, log)
            begin_epoch(config, progress, train_loader, log)
            batches = attendant.announced(train_loader)
            if trainer.step == 0:
                batches = keepsakes.first_batches(batches, model_config, class_map)
            with attendant.keeping_diverged(run.folder, train_set.names_of), memory_errors():
                train_one_epoch(
                    trainer,
                    batches,
                    progress.meter,
                    accumulate=config.accumulate,
                    log_every=config.log_every,
                    report=log.step,
                    after_step=attendant.after_step,
                )
            figures, results = validate(
                attendant, config, val_loader, postprocess, truth, class_map
            )
            keepsakes.hold(results)
            epoch = progress.epoch
            if end_epoch(attendant, config, figures):
                keepsakes.keep_best(
                    Validation(epoch=epoch, figures=figures, dataset=val_set, truth=truth)
                )
        conclude(log, config, progress, run)


def restore(
    resumed: Resumed | None, checkpointer: Checkpointer, trainer: Trainer, progress: Progress
) -> list[dict[str, Any]]:
    """The history of the run, with its state put back; nothing for a new one."""
    if resumed is None:
        return []
    return checkpointer.restore(trainer, progress, resumed.checkpoint, resumed.path)


def is_over(config: TrainConfig, progress: Progress) -> bool:
    """Whether all epochs are trained, or the run is given up."""
    return progress.epoch > config.total_epochs or out_of_patience(config, progress)


def out_of_patience(config: TrainConfig, progress: Progress) -> bool:
    """Whether there was no higher AP for so long that the run is given up."""
    return 0 < config.patience <= progress.stale


def begin_epoch(config: TrainConfig, progress: Progress, loader: Loader, log: RunLog) -> None:
    """Go to where the run is: the beginning of an epoch, or within one that was interrupted."""
    if progress.images == 0:  # within an epoch the random states are those that were saved
        seed_epoch(config.seed, progress.epoch)
    progress.begin_epoch()
    loader.set_position(progress.epoch, progress.images)
    log.begin_epoch(progress.epoch)


def begin_phase(
    trainer: Trainer, frozen: frozenset[str], rehearse: Callable[[], None], log: RunLog
) -> None:
    """Train all but ``frozen`` from now on, where that is not so already."""
    if trainer.freeze(frozen):
        if distributed.world_size() > 1:
            rehearse()
        log.say(f"         {trainable_parameters(trainer.bare_model):,} parameters learn now")


def end_epoch(attendant: Attendant, config: TrainConfig, figures: dict[str, Any]) -> bool:
    """Judge, log and save what the epoch has come to; ``figures`` are none without validation.

    Returns:
        Whether its weights are the best so far, and saved as such.
    """
    trainer, progress = attendant.trainer, attendant.progress
    means = progress.meter.means() | {"lr": trainer.schedule(trainer.step - 1)}
    means["bad_images"] = attendant.share_images("train")
    is_best = bool(figures) and progress.judge(figures["AP"])
    attendant.log.end_epoch(means, figures)
    progress.end_epoch()
    attendant.save(figures=figures, is_best=is_best, must=is_over(config, progress))
    return is_best and not attendant.checkpointer.best_lost


def is_validated(config: TrainConfig, epoch: int) -> bool:
    """Whether the weights after ``epoch`` are validated; the last ones always are."""
    due = epoch >= config.eval_from and epoch % config.eval_every == 0
    return due or epoch == config.total_epochs


def is_looked_into(config: TrainConfig, progress: Progress, ap: float | None) -> bool:
    """Whether to say why this validation finds nothing.

    Once the warm-up is over: within it nothing is learned yet. After the 1st, 2nd, 4th, 8th, ...
    validation and the last: what stays wrong is said again, ever more seldom.
    """
    number = progress.validations + 1
    due = progress.epoch > config.warmup_epochs and number & (number - 1) == 0
    return finds_nothing(ap) and (due or progress.epoch == config.total_epochs)


def validate(
    attendant: Attendant,
    config: TrainConfig,
    loader: Loader,
    postprocess: Postprocess,
    truth: GroundTruth,
    class_map: ClassMap,
) -> tuple[dict[str, Any], Results]:
    """COCO figures of the better of averaged and raw weights; none in epochs without validation.

    ``weights`` names whose they are, and ``AP_ema`` and ``AP_raw`` are the APs of all that were
    validated. With them come the detections, on the main process.
    """
    trainer, log = attendant.trainer, attendant.log
    if not is_validated(config, attendant.progress.epoch):
        return {}, Results.join([])
    log.status("validating")
    results: dict[str, tuple[Metrics, CocoEvaluator]] = {}
    for name, model in trainer.weights_to_validate(config.eval_weights).items():
        evaluator = CocoEvaluator(truth, class_map, config.evaluator)
        metrics = evaluate(
            model,
            loader,
            postprocess,
            evaluator,
            device=trainer.device,
            dtype=trainer.dtype,
            channels_last=config.channels_last,
            poll=attendant.during_validation,
            rounds=loader.rounds,
        )
        results[name] = metrics, evaluator
        attendant.during_validation()  # the scoring may have taken a while
    aps = {name: metrics.figures["AP"] for name, (metrics, _) in results.items()}
    better = max(results, key=lambda name: -1.0 if (ap := aps[name]) is None else ap)
    metrics, evaluator = results[better]
    if is_looked_into(config, attendant.progress, aps[better]) and distributed.is_main():
        left_out, advice = evaluator.num_left_out, config.lr_advice
        log.say(diagnose(evaluator.results(), truth, class_map, left_out, lr_advice=advice))
    found = {f"AP_{name}": ap for name, ap in aps.items()}
    if (num_bad := attendant.share_images("val")) > 0:  # of which no box can be found
        found["bad_val_images"] = num_bad
    return {**metrics.figures, "weights": better, **found}, evaluator.results()


def conclude(log: RunLog, config: TrainConfig, progress: Progress, run: Run) -> None:
    """Say how the run ended and what to do next."""
    if out_of_patience(config, progress):
        log.say(f"no higher AP in {counted(progress.stale, 'validation')}: the run ends here")
    log.finish({"best_AP": progress.best_ap})
    tell_bad_images(log, progress)
    log.say(f"weights in {run.folder}; validate them with:")
    log.say(f"    python validate.py --data {config.data} --weights {run.folder}/{BEST}")
    log.say(f"next: {shlex.join(['effdet', 'report', str(run.folder)])}")


def tell_bad_images(log: RunLog, progress: Progress) -> None:
    """Say how many images could not be used, if any."""
    train, val = (progress.records[split] for split in ("train", "val"))
    if train.bad:
        log.say(
            f"{len(train.bad)} of {counted(train.total, 'training image')} bad: others took their "
            "places"
        )
    if val.bad:
        log.say(
            f"{len(val.bad)} of {counted(val.total, 'validation image')} bad: AP is without them, "
            "too low"
        )
    if train.bad or val.bad:
        log.say(f"each is named in {log.folder}/log.jsonl")


def build_log(config: TrainConfig, run: Run) -> RunLog:
    """The record of the run, which only the main process keeps."""
    return RunLog(
        run.folder if distributed.is_main() else None,
        epochs=config.total_epochs,
        steps_per_epoch=0,  # until the batch size is known
        console=config.console,
        log_to=config.log_to,
        name=run.folder.name,
    )


def locate_datasets(config: TrainConfig) -> tuple[SplitFiles, SplitFiles]:
    """Where the training set and the validation set are."""
    train_files = locate_split(
        config.data, config.train_split, config.train_annotations, config.train_images
    )
    val_files = locate_split(
        config.data, config.val_split, config.val_annotations, config.val_images
    )
    return train_files, val_files


def build_datasets(config: TrainConfig) -> tuple[CocoDataset, CocoDataset, GroundTruth]:
    """The training set, whose categories are the classes, the validation set and its boxes."""
    train_files, val_files = locate_datasets(config)
    follow_links = config.follow_links
    reading: dict[str, Any] = {
        "strict": config.strict_data,
        "follow_links": follow_links,
        "max_pixels": config.max_pixels,
    }
    train_table = read_split(train_files, follow_links=follow_links)
    train_set = CocoDataset(train_table, train_files.images, **reading)
    train_set.require_boxes()
    class_map = train_set.class_map
    val_table = read_split(val_files, class_map, follow_links=follow_links)
    val_set = CocoDataset(val_table, val_files.images, class_map=class_map, **reading)
    return train_set, val_set, GroundTruth.load(val_table)


def image_sizes(config: TrainConfig, model_config: ModelConfig) -> ImageSizes:
    """The size of the training images of every step."""
    return ImageSizes(
        model_config.image_size,
        epochs=config.total_epochs,
        multi_scale=config.multi_scale,
        stages=config.progressive,
        seed=config.seed,
    )


def take_initial_weights(
    model: EfficientDet,
    config: TrainConfig,
    class_map: ClassMap,
    resumed: Resumed | None,
    initial: Initial,
) -> Taken:
    """Fill the model from the weights that were asked for."""
    if resumed is not None:  # the checkpointer fills it, with all that belongs to it
        return Taken(line=f"as saved in {resumed.path}")
    if isinstance(initial, Checkpoint):
        assert config.weights is not None
        return transfer_weights(
            model,
            class_map,
            initial,
            config.weights,
            partial=config.partial_weights,
            other_anchors=config.anchors is not None,
        )
    if isinstance(initial, Classifier):
        assert config.backbone_weights is not None
        return transfer_backbone(model, initial, config.backbone_weights)
    return Taken(line="random", random=frozenset(model.state_dict()))


def freeze_parts(model: EfficientDet, config: TrainConfig, taken: Taken) -> Freezing:
    """Freeze what never learns; what is frozen for the first epochs alone comes with these."""
    freezing = plan_freezing(
        model,
        config.freeze,
        first_epochs=config.freeze_epochs,
        first_patterns=config.frozen_at_first,
        random=taken.random,
    )
    freeze(model, freezing.throughout)
    return freezing


def build_postprocess(config: TrainConfig, anchors: Anchors, class_map: ClassMap) -> Postprocess:
    """From predictions to detections, at the size that the model is made for."""
    return Postprocess(
        anchors=anchors(anchors.config.image_size),
        config=select_postprocess(config),
        class_map=class_map,
    )


def build_loaders(
    config: TrainConfig,
    model_config: ModelConfig,
    sizes: ImageSizes,
    train_set: CocoDataset,
    val_set: CocoDataset,
    device: torch.device,
) -> tuple[Loader, Loader]:
    """Augmented, shuffled batches to train on, and letterboxed ones to validate on."""
    model_input = (model_config.image_size, model_config.mean, model_config.std)
    loading: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": distributed.num_workers(config.workers),
        "device": device,
        "timeout": config.timeout,
        "max_bad_images": config.max_bad_images,
    }
    augment = TrainTransform(
        *model_input, jitter=(config.jitter_min, config.jitter_max), flip=config.flip
    )
    return (
        build_train_loader(
            train_set,
            augment,
            seed=config.seed,
            accumulate=config.accumulate,
            sizes=sizes,
            **loading,
        ),
        build_eval_loader(val_set, EvalTransform(*model_input), **loading),
    )


def introduce(
    log: RunLog,
    config: TrainConfig,
    model_config: ModelConfig,
    trainer: Trainer,
    train_set: CocoDataset,
    val_set: CocoDataset,
    train_loader: Loader,
) -> None:
    """Say what is about to be trained on what."""
    world = distributed.world_size()
    log.parameters(dataclasses.asdict(config))
    log.environment(trainer.device, world)
    size = " x ".join(map(str, model_config.image_size))
    log.say(f"effdet {__version__}  torch {torch.__version__}  {trainer.device} x {world}")
    log.say(f"train    {train_set.report}")
    if train_loader.num_dropped:
        log.say(
            f"         {counted(train_loader.num_dropped, 'image')} left over, others each epoch"
        )
    log.say(f"val      {val_set.report}")
    if not val_set.report.boxes:
        log.warn(f"{val_set.annotations}: there is no box to be found; all figures will be empty")
    parameters = sum(p.numel() for p in trainer.bare_model.parameters())
    log.say(
        f"model    {config.model}  {parameters:,} parameters  "
        f"input {size}  {num_anchors(model_config):,} anchors  "
        f"{counted(model_config.num_classes, 'class', 'classes')}"
    )
    if config.freeze:
        learning = trainable_parameters(trainer.bare_model)
        log.say(f"freeze   {' '.join(config.freeze)}  {learning:,} parameters learn")
    batch = f"{config.batch_size} x {world}"
    if config.accumulate > 1:
        batch += f" x {config.accumulate} accumulated"
    log.say(f"run      {log.folder}  {counted(config.total_epochs, 'epoch')}  batch {batch}")
    if (warning := slow_amp_warning(trainer.device, trainer.dtype)) is not None:
        log.warn(warning)


if __name__ == "__main__":
    run(record(main), "train.py", report)
