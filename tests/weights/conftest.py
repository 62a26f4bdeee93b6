# SPDX-License-Identifier: Apache-2.0
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from effdet.config import ModelConfig, model_config
from effdet.models import build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint

CLASS_MAP = ClassMap(("cat", None, "dog"), (1, None, 3))


@functools.cache
def weights(config: ModelConfig) -> dict[str, Tensor]:
    """Fresh weights, made once."""
    torch.manual_seed(0)
    return build_model(config).state_dict()


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    """A Lite0 for 64 x 96 pixels and three classes, its average one tenth above the weights."""

    def _make(class_map: ClassMap = CLASS_MAP, **changes: object) -> Checkpoint:
        values: dict[str, object] = {"image_size": (64, 96), "num_classes": len(class_map)}
        config = model_config("efficientdet_lite0", **(values | changes))
        state = weights(config)
        average = {n: t + 0.1 if t.is_floating_point() else t for n, t in state.items()}
        return Checkpoint(
            model_config=config,
            class_map=class_map,
            model=state,
            ema=average,
            metrics={"AP": 0.25, "APs": None, "epoch": 3},
            training={"step": 12, "optimizer": {"state": {0: torch.ones(2)}}, "size": (1, 2)},
        )

    return _make
