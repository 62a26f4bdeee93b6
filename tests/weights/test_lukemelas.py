# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from effdet.config import ClassifierConfig, model_config
from effdet.models import EfficientNetClassifier, build_model
from effdet.weights import load_classifier, transfer_backbone, translate
from effdet.weights.sources.lukemelas import LUKEMELAS, tensor_name
from tests.weights.exported import in_memory


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("backbone.stem.conv.weight", "_conv_stem.weight"),
        ("backbone.stem.bn.running_mean", "_bn0.running_mean"),
        ("backbone.blocks.0.depthwise.conv.weight", "_blocks.0._depthwise_conv.weight"),
        ("backbone.blocks.0.depthwise.bn.weight", "_blocks.0._bn1.weight"),
        ("backbone.blocks.12.expand.conv.weight", "_blocks.12._expand_conv.weight"),
        ("backbone.blocks.12.expand.bn.bias", "_blocks.12._bn0.bias"),
        ("backbone.blocks.12.project.bn.running_var", "_blocks.12._bn2.running_var"),
        ("backbone.blocks.12.project.conv.weight", "_blocks.12._project_conv.weight"),
        ("backbone.blocks.3.se.reduce.bias", "_blocks.3._se_reduce.bias"),
        ("backbone.blocks.3.se.expand.weight", "_blocks.3._se_expand.weight"),
        ("head.conv.weight", "_conv_head.weight"),
        ("head.bn.num_batches_tracked", "_bn1.num_batches_tracked"),
        ("classifier.weight", "_fc.weight"),
    ],
)
def test_names_are_those_of_the_files(ours: str, theirs: str) -> None:
    assert tensor_name(ours) == theirs


@pytest.fixture
def file(data_folder: Path) -> Path:
    path = data_folder / "weights" / "efficientnet-lite0-57934424.pth"
    if not path.is_file():
        pytest.skip(f"no published weights: {path} is missing")
    return path


@torch.no_grad()
def test_published_lite0_gives_its_published_logits(file: Path) -> None:
    """Against the figures that the package of these weights gave for the same synthetic image."""
    expected = json.loads((file.parent / "golden.json").read_text())["models"]["lite0"]
    side = expected["input_size"]
    pixels = ((torch.arange(3 * side * side) * 37) % 255).reshape(1, 3, side, side).float()
    stored = in_memory(torch.load(file, weights_only=True))
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    (config,) = translate.identify(LUKEMELAS, shapes)
    assert config == ClassifierConfig(
        backbone="efficientnet_lite0", mean=(127.0,) * 3, std=(128.0,) * 3
    )
    model = EfficientNetClassifier(config).eval()
    model.load_state_dict(translate.state_dict(LUKEMELAS, config, stored))
    logits = model((pixels - 127) / 128)[0]
    first = torch.tensor(expected["synthetic_logits_first8"])
    assert_close(logits[:8], first, rtol=0, atol=1e-4)
    assert logits.sum().item() == pytest.approx(expected["synthetic_logits_sum"], abs=1e-2)
    assert logits.abs().mean().item() == pytest.approx(
        expected["synthetic_logits_absmean"], abs=1e-5
    )


def test_published_lite0_is_a_backbone(file: Path) -> None:
    model = build_model(model_config("efficientdet_lite0"))
    assert "backbone 100 %" in transfer_backbone(model, load_classifier(file), file).line
    stem = torch.load(file, weights_only=True)["_conv_stem.weight"]
    assert torch.equal(model.backbone.stem.conv.weight, stem)
