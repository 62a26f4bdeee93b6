# SPDX-License-Identifier: Apache-2.0
"""The validation after an epoch."""

from typing import Any

from effdet import distributed
from effdet.data import Loader
from effdet.evaluation import (
    CocoEvaluator,
    GroundTruth,
    Metrics,
    Results,
    diagnose,
    evaluate,
    finds_nothing,
)
from effdet.postprocess import Postprocess
from effdet.settings import TrainConfig
from effdet.settings.train_options import USUAL_LR
from effdet.structures import ClassMap
from effdet.training.attendant import Attendant
from effdet.training.progress import Progress


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
        left_out, advice = evaluator.num_left_out, lr_advice(config)
        log.say(diagnose(evaluator.results(), truth, class_map, left_out, lr_advice=advice))
    found = {f"AP_{name}": ap for name, ap in aps.items()}
    if (num_bad := attendant.share_images("val")) > 0:  # of which no box can be found
        found["bad_val_images"] = num_bad
    return {**metrics.figures, "weights": better, **found}, evaluator.results()


def lr_advice(config: TrainConfig) -> str:
    """The learning rate, and the one that is usual with this optimizer."""
    return (
        f"it is {config.lr:g}; with {config.optimizer}, {USUAL_LR[config.optimizer]:g} is usual; "
        "both for a global batch of 64"
    )
