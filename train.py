# SPDX-License-Identifier: Apache-2.0
"""Train an EfficientDet.

    python train.py --data DIR --model efficientdet_d0 --output runs/mine
    torchrun --nproc-per-node 8 train.py --data DIR --amp

Without ``--data`` the built-in set of shapes is used; ``--help`` lists every option.
"""

import contextlib
import functools
import sys

import torch

from effdet import distributed, flags, processes
from effdet.anchors import Anchors
from effdet.errors import UsageError, run
from effdet.keepsakes import Keepsakes, Validation
from effdet.metrics import RunLog
from effdet.metrics.sinks import require_installed
from effdet.models import build_model
from effdet.postprocess import Postprocess
from effdet.precision import autocast_dtype, set_tf32
from effdet.presets import ABOUT, PRESETS
from effdet.settings import TrainConfig, select_postprocess
from effdet.structures import ClassMap
from effdet.training import (
    Attendant,
    Checkpointer,
    Control,
    Initial,
    Peers,
    Progress,
    Run,
    begin_epoch,
    begin_phase,
    build_datasets,
    build_loaders,
    build_trainer,
    conclude,
    end_epoch,
    explain_memory_errors,
    freeze_parts,
    image_sizes,
    introduce,
    is_over,
    locate_datasets,
    open_run,
    read_initial_weights,
    report_to_launcher,
    restore,
    saved_settings,
    take_initial_weights,
    train_one_epoch,
    validate,
    with_batch_size,
    with_errors_for_launcher,
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


def build_postprocess(config: TrainConfig, anchors: Anchors, class_map: ClassMap) -> Postprocess:
    """From predictions to detections, at the size that the model is made for."""
    return Postprocess(
        anchors=anchors(anchors.config.image_size),
        config=select_postprocess(config),
        class_map=class_map,
    )


if __name__ == "__main__":
    run(with_errors_for_launcher(main), "train.py", report_to_launcher)
