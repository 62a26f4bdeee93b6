# SPDX-License-Identifier: Apache-2.0
"""The reference run's variables through files of every layout: each tensor comes out as it went in.

The outputs that they give stand in tests/models.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from effdet.config import MODELS, ClassifierConfig, ModelConfig
from effdet.weights import translate
from effdet.weights.formats.tensorflow import open_tensorflow
from effdet.weights.sources.automl import CLASSIFIER_BUILT_TWICE, DETECTOR
from effdet.weights.tensor_file import TensorFile
from tests import golden
from tests.weights.tf_writer import write_empty, write_with_raw

LAYOUTS: dict[str, dict[str, Any]] = {
    "d0": {},
    "d1": {"snappy": True},
    "d2": {"num_shards": 2},
    "d3": {"block_size": 4096},
    "d4": {"num_shards": 7, "block_size": 1000, "snappy": True},
    "d5": {},
    "lite0": {"num_shards": 1000},
    "lite1": {"block_size": 1},
    "lite2": {"snappy": True, "block_size": 64},
    "lite3": {"num_shards": 3},
    "lite3x": {"num_shards": 2, "snappy": True},
    "lite4": {"num_shards": 2, "block_size": 4096},
}
LARGE = ["d6", "d7", "d7x"]


def identified(file: TensorFile) -> set[str]:
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    assert DETECTOR.recognises(shapes)
    return {config.name for config in translate.identify(DETECTOR, shapes)}


@pytest.mark.parametrize("name", LARGE)
def test_large_models_are_identified_from_the_index(name: str, tmp_path: Path) -> None:
    shapes = golden.shapes(f"efficientdet-{name}")
    file = open_tensorflow(write_empty(tmp_path / "model", shapes))
    assert {n: stored.shape for n, stored in file.tensors.items()} == shapes
    twins = {"efficientdet_d6", "efficientdet_d7"}
    assert identified(file) == (twins if name in ("d6", "d7") else {"efficientdet_d7x"})


@pytest.mark.parametrize(
    "name", [*LAYOUTS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def test_every_tensor_of_a_detector_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    model = f"efficientdet-{name}"
    config: ModelConfig = MODELS[model.replace("-", "_")]
    values = golden.variables(model)
    file = open_tensorflow(write_with_raw(tmp_path / "model", values, **LAYOUTS.get(name, {})))
    assert config.name in identified(file)
    state = translate.state_dict(DETECTOR, config, file.best())
    for ours, tensor in state.items():
        if not ours.endswith(translate.COUNTER):
            theirs = [values.pop(variable) for variable in DETECTOR.names(config, ours)]
            assert torch.equal(tensor, DETECTOR.to_ours(config, ours, theirs)), ours
    assert not values
    raw = file.best(use_ema=False)["class_net/class-predict/bias"].read()
    assert torch.equal(raw, torch.full_like(raw, 7.0))


def test_every_tensor_of_a_classifier_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Its graph had been built twice; the other case is in tests/models/test_efficientnet.py."""
    values = golden.variables("efficientnet-b0")
    file = open_tensorflow(write_with_raw(tmp_path / "model.ckpt-218949", values))
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    (config,) = translate.identify(CLASSIFIER_BUILT_TWICE, shapes)
    assert config == ClassifierConfig(backbone="efficientnet_b0")
    state = translate.state_dict(CLASSIFIER_BUILT_TWICE, config, file.best())
    for ours, tensor in state.items():
        for theirs in CLASSIFIER_BUILT_TWICE.names(config, ours):
            value = values.pop(theirs)
            assert torch.equal(tensor, CLASSIFIER_BUILT_TWICE.to_ours(config, ours, [value])), ours
    assert not values
