# SPDX-License-Identifier: Apache-2.0
"""The model that the options of ``train.py`` and the weights to begin with lead to."""

import dataclasses
from typing import Any

from effdet.config import MODELS, ClassifierConfig, ModelConfig, model_config, size_pair
from effdet.settings.anchors import format_anchors, parse_anchors
from effdet.settings.train_options import DEFAULT_MODEL, TrainOptions

SETTLED = (
    "model", "padding", "backbone_padding", "fusion", "backbone_bn_eps", "mean", "std",
    "image_size", "anchors",
)  # fmt: skip
"""Options that come from the weights where they are not given."""

_MODEL_FIELDS = (
    "backbone_padding", "fusion", "survival_prob", "backbone_bn_eps", "mean", "std",
)  # fmt: skip
"""Options that change the field of the model with their name where they are given."""


def model_to_train(options: TrainOptions, num_classes: int) -> ModelConfig:
    """The configuration that ``options`` describe."""
    changes: dict[str, Any] = {"num_classes": num_classes, "padding": options.padding or "same"}
    if options.image_size is not None:
        changes["image_size"] = size_pair(options.image_size)
    if options.anchors is not None:
        changes |= parse_anchors(options.anchors)
    for name in _MODEL_FIELDS:
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return model_config(options.model or DEFAULT_MODEL, **changes)


def settle(options: TrainOptions, like: ModelConfig | ClassifierConfig | None) -> dict[str, Any]:
    """The options among :data:`SETTLED` that were left open, as the model of the weights has them.

    Args:
        options: of which those that are given stay.
        like: the detector or the classifier to start from; None for random weights.
    """
    if like is None:
        return {"model": options.model or DEFAULT_MODEL, "padding": options.padding or "same"}
    model = options.model or _model_like(like)
    changes: dict[str, Any] = {"model": model, "padding": options.padding or like.padding}
    own = dataclasses.replace(MODELS[model], padding=changes["padding"])
    for name, value in _input_and_layers(options, like).items():
        if getattr(options, name) is None and value != getattr(own, name):
            changes[name] = value
    if isinstance(like, ModelConfig) and like.name == model:  # others have their own
        theirs = format_anchors(like)
        if options.anchors is None and theirs != format_anchors(own):
            changes["anchors"] = theirs
    eps = like.backbone_eps if isinstance(like, ModelConfig) else like.bn_eps
    usual = dataclasses.replace(own, backbone_padding=changes.get("backbone_padding"))
    if options.backbone_bn_eps is None and eps != usual.backbone_eps:
        changes["backbone_bn_eps"] = eps
    return changes


def _input_and_layers(
    options: TrainOptions, like: ModelConfig | ClassifierConfig
) -> dict[str, Any]:
    """What a model is to have of ``like``, by the name that option and field share."""
    wanted: dict[str, Any] = {"mean": like.mean, "std": like.std}
    if isinstance(like, ModelConfig):
        wanted |= {"fusion": like.fusion, "backbone_padding": like.backbone_padding}
        if options.model is None:
            wanted["image_size"] = like.image_size
    return wanted


def _model_like(like: ModelConfig | ClassifierConfig) -> str:
    """The model to train where no option names one."""
    if isinstance(like, ModelConfig):
        return like.name
    return next(m.name for m in MODELS.values() if m.backbone == like.backbone)
