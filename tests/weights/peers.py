# SPDX-License-Identifier: Apache-2.0
"""Our models and those of other programs with the same random weights on the same images."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdet.config import ClassifierConfig, ModelConfig, model_config
from effdet.models import EfficientDet, EfficientNetClassifier
from effdet.weights import translate
from effdet.weights.source import Config, Source
from effdet.weights.sources.lukemelas import LUKEMELAS
from effdet.weights.sources.pytorch import swap_xy
from effdet.weights.sources.rwightman import RWIGHTMAN
from effdet.weights.sources.timm import TIMM
from effdet.weights.sources.torchvision import TORCHVISION
from tests.weights.exported import export, in_memory
from tests.weights.random_state import random_state

PROGRAM = Path(__file__).with_name("peer_program.py")
REPEAT_FIRST = RWIGHTMAN[0]
ODD, EVEN, SMALL = (193, 224), (224, 224), (256, 384)


@dataclass(frozen=True)
class Case:
    """A model of another program, and ours that must give the same.

    Attributes:
        package: what is imported.
        name: the model there.
        source: how its tensors are named.
        config: our model.
        size: ``(height, width)`` of the images; SAME and symmetric padding differ in each.
    """

    package: str
    name: str
    source: Source[Any]
    config: Config
    size: tuple[int, int]


def _timm(name: str) -> Case:
    backbone = name.removeprefix("tf_")
    padding: dict[str, Any] = {} if name != backbone else {"padding": "symmetric", "bn_eps": 1e-5}
    return Case("timm", name, TIMM, ClassifierConfig(backbone=backbone, **padding), ODD)


def _torchvision(name: str, eps: float) -> Case:
    config = ClassifierConfig(backbone=name, padding="symmetric", bn_eps=eps)
    return Case("torchvision", name, TORCHVISION, config, ODD)


def _lukemelas(package: str, name: str) -> Case:
    config = ClassifierConfig(backbone=name.replace("-", "_"))
    return Case(package, name, LUKEMELAS, config, EVEN)  # its padding is made for this size


def _rwightman(name: str, **changes: Any) -> Case:
    config = model_config(name.removeprefix("tf_"), **changes)
    return Case("effdet", name, REPEAT_FIRST, config, SMALL)


CASES = [
    *(_timm(f"{prefix}efficientnet_{x}") for x in ("b0", "b1", "lite0") for prefix in ("tf_", "")),
    _torchvision("efficientnet_b0", 1e-5),
    _torchvision("efficientnet_b5", 1e-3),
    _lukemelas("efficientnet_pytorch", "efficientnet-b0"),
    _lukemelas("efficientnet_lite_pytorch", "efficientnet-lite0"),
    _rwightman("tf_efficientdet_d0"),
    _rwightman("efficientdet_d0", padding="symmetric"),
    _rwightman("tf_efficientdet_lite0"),
    _rwightman("tf_efficientdet_d7x"),
]


def case_input(case: Case) -> dict[str, Any]:
    """Random weights under the program's names, and random images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *case.size, generator=generator)
    state = lively_state(case.config, images)
    return {"state": export(case.source, case.config, state), "images": images}


@torch.no_grad()
def lively_state(config: Config, images: Tensor) -> dict[str, Tensor]:
    """Random weights with which outputs depend on the images, however deep the model is.

    The running statistics are a little off those of the features, each by a random factor and
    a random amount.
    """
    state = random_state(config)
    model = build(config).train()
    model.load_state_dict(state)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.momentum = 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model(images)
    for name, norm in norms.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, var = f"{name}.running_mean", f"{name}.running_var"
        state[mean] = norm.running_mean + state[mean] * norm.running_var.sqrt()
        state[var] = norm.running_var * state[var].pow(0.25)
    return state


def build(config: Config) -> EfficientDet | EfficientNetClassifier:
    """Our model."""
    is_detector = isinstance(config, ModelConfig)
    return EfficientDet(config) if is_detector else EfficientNetClassifier(config)


@torch.no_grad()
def our_outputs(case: Case, given: dict[str, Any]) -> list[Tensor]:
    """What our model makes of the file's weights, boxes in the program's order."""
    stored = in_memory(given["state"])
    model = build(case.config).eval()
    model.load_state_dict(translate.state_dict(case.source, case.config, stored))
    found = model(given["images"])
    if isinstance(found, Tensor):
        return [found]
    classes, boxes = found
    return [*classes, *(swap_xy(box.transpose(0, 1)).transpose(0, 1) for box in boxes)]


def differences(ours: list[Tensor], theirs: list[Tensor]) -> list[float]:
    """Largest difference of each output in units of its largest value."""
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs)]


def compare(case: Case, python: str) -> tuple[str, list[float]]:
    """Name and version of the other program in the environment of ``python``; differences."""
    given = case_input(case)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "case.pt"), Path(folder, "outputs.pt")
        torch.save(given, source)
        subprocess.run(
            [python, str(PROGRAM), case.package, case.name, str(source), str(target)],
            cwd=folder,  # not where this toolkit could be imported
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            check=True,
        )
        result = torch.load(target)
    return result["program"], differences(our_outputs(case, given), result["outputs"])
