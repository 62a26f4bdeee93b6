# SPDX-License-Identifier: Apache-2.0
"""``effdet convert``: weights of any known kind as a file of this toolkit."""

import dataclasses
from pathlib import Path
from typing import Any

from effdet.counts import counted
from effdet.errors import UsageError
from effdet.settings import ConvertConfig
from effdet.weights.checkpoint import Checkpoint
from effdet.weights.classifier_file import Classifier, save_classifier
from effdet.weights.open import holds_classifier, load_classifier, load_detector
from effdet.weights.write import check_new_weights, write_weights


def convert_weights(config: ConvertConfig) -> str:
    """Read ``config.source`` and write ``config.output``; one line says what was done.

    Raises:
        UsageError: where the output is there already or of no known kind.
        WeightsError: as :func:`effdet.weights.open.load_detector`.
        WriteError: with the system's reason.
    """
    output = Path(config.output)
    check_new_weights(output)
    if holds_classifier(config.source):
        return _convert_classifier(config, output)
    checkpoint = load_detector(
        config.source,
        model=config.model,
        padding=config.padding,
        classes=config.classes or None,
        use_ema=config.use_ema,
        inert=True,
    )
    _check_options(checkpoint, config)
    checkpoint = _changed(checkpoint, config)
    write_weights(checkpoint, output)
    model, names = checkpoint.model_config, checkpoint.class_map
    return (
        f"{output}: {model.name}, {counted(len(names.named), 'class', 'classes')} in "
        f"{counted(len(names), 'output')}, from "
        f"{checkpoint.origin or config.source}"
    )


def _convert_classifier(config: ConvertConfig, output: Path) -> str:
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: a classifier is written as .safetensors; give such a name")
    for option, value in (("--model", config.model), ("--classes", config.classes)):
        if value:
            raise UsageError(f"{config.source}: an ImageNet classifier; leave out {option}")
    found: Classifier = load_classifier(
        config.source, padding=config.padding, use_ema=config.use_ema, inert=True
    )
    if config.padding not in (None, found.config.padding):
        raise UsageError(
            f"{config.source}: has padding {found.config.padding}; leave out --padding"
        )
    changed = dataclasses.replace(
        found,
        config=dataclasses.replace(found.config, **_normalization(config)),
        licence=config.licence or found.licence,
    )
    save_classifier(changed, output)
    return f"{output}: classifier {found.config.backbone}, from {found.origin}"


def _normalization(config: ConvertConfig) -> dict[str, Any]:
    given = {"mean": config.mean, "std": config.std}
    return {name: value for name, value in given.items() if value is not None}


def _check_options(checkpoint: Checkpoint, config: ConvertConfig) -> None:
    """Refuse options that the file contradicts: they say what it leaves open, no more."""
    found = checkpoint.model_config
    for option, asked, have in (
        ("--model", config.model, found.name),
        ("--padding", config.padding, found.padding),
        ("--classes", config.classes or None, checkpoint.class_map.names),
    ):
        if asked is not None and asked != have:
            what = "classes of its own" if option == "--classes" else f"{option[2:]} {have}"
            raise UsageError(f"{config.source}: has {what}; leave out {option}")


def _changed(checkpoint: Checkpoint, config: ConvertConfig) -> Checkpoint:
    """With what the user knows better than the file."""
    normalization = _normalization(config)
    if normalization:  # the figures are those of other images
        checkpoint = dataclasses.replace(checkpoint, metrics={})
    if checkpoint.ema is not None and not config.use_ema:
        # The figures are those of the weights that were chosen.
        metrics = checkpoint.metrics if checkpoint.chosen == "raw" else {}
        checkpoint = dataclasses.replace(
            checkpoint, ema=None, chosen="raw", metrics=metrics, training={}
        )
    return dataclasses.replace(
        checkpoint,
        model_config=dataclasses.replace(checkpoint.model_config, **normalization),
        licence=config.licence or checkpoint.licence,
    )
