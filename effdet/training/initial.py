# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: weights, and what of them learns."""

from effdet.models import EfficientDet
from effdet.settings import TrainConfig
from effdet.structures import ClassMap
from effdet.training.freeze import Freezing, freeze, plan_freezing
from effdet.training.resume import Resumed, goes_on
from effdet.weights import (
    Checkpoint,
    Classifier,
    Taken,
    load_classifier,
    load_detector,
    transfer_backbone,
    transfer_weights,
)

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
