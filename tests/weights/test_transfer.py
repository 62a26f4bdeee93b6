# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from effdet.config import model_config
from effdet.errors import WeightsError
from effdet.models import EfficientDet, EfficientNetClassifier, build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint, load_backbone, load_detector_weights, save_checkpoint
from effdet.weights.lukemelas import variable
from tests.weights.conftest import CLASS_MAP

Make = Callable[..., Checkpoint]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


def fresh(num_classes: int = 3, **changes: object) -> EfficientDet:
    torch.manual_seed(9)
    return build_model(model_config("efficientdet_lite0", num_classes=num_classes, **changes))


def test_the_same_classes_take_all_averaged_weights(make_checkpoint: Make, path: Path) -> None:
    checkpoint = make_checkpoint()
    save_checkpoint(checkpoint, path)
    model = fresh()  # of another image size: that does not matter
    assert "all weights taken" in load_detector_weights(model, CLASS_MAP, path)
    assert checkpoint.ema is not None
    assert all(torch.equal(t, checkpoint.ema[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("names", [("a", "b", "c", "d", "e"), ("cat", "bird", "dog")])
def test_other_classes_take_all_but_the_last_class_layer(
    names: tuple[str, ...], make_checkpoint: Make, path: Path
) -> None:
    checkpoint = make_checkpoint()
    save_checkpoint(checkpoint, path)
    model = fresh(len(names))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    said = load_detector_weights(model, ClassMap(names, tuple(range(len(names)))), path)
    assert f"the file has 3 classes, the data {len(names)}" in said
    assert checkpoint.ema is not None
    for name, tensor in model.state_dict().items():
        new = name.startswith("class_head.predict.")
        assert torch.equal(tensor, before[name] if new else checkpoint.ema[name]), name


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"padding": "symmetric"}, "padding symmetric, not same; give --padding symmetric"),
        ({"fusion": "fastattn"}, "fusion fastattn, not sum; give --fusion fastattn"),
    ],
)
def test_another_graph_is_refused_with_the_flag_to_give(
    changes: dict[str, object], advice: str, make_checkpoint: Make, path: Path
) -> None:
    save_checkpoint(make_checkpoint(**changes), path)
    with pytest.raises(WeightsError) as caught:
        load_detector_weights(fresh(), CLASS_MAP, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert advice in str(caught.value)


def test_another_model_is_refused_with_the_flag_to_give(make_checkpoint: Make, path: Path) -> None:
    save_checkpoint(make_checkpoint(), path)
    other = build_model(model_config("efficientdet_d0", num_classes=3))
    with pytest.raises(WeightsError, match="name efficientdet_lite0, not efficientdet_d0; give "):
        load_detector_weights(other, CLASS_MAP, path)


def as_classifier_file(name: str, path: Path) -> EfficientNetClassifier:
    """Write fresh classifier weights under the names of ``efficientnet-pytorch``."""
    torch.manual_seed(4)
    model = EfficientNetClassifier(name)
    torch.save({variable(n): t for n, t in model.state_dict().items()}, path)
    return model


def test_a_backbone_is_taken_whole_from_a_classifier(path: Path) -> None:
    classifier = as_classifier_file("efficientnet_lite0", path)
    model = fresh()
    head = {n: t.clone() for n, t in model.state_dict().items() if not n.startswith("backbone.")}
    assert "backbone taken whole" in load_backbone(model, path)
    ours, theirs = model.backbone.state_dict(), classifier.backbone.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in head.items())


def test_a_file_without_step_counters_is_taken_too(path: Path) -> None:
    """Files written before PyTorch 0.4.1 have no ``num_batches_tracked``."""
    as_classifier_file("efficientnet_lite0", path)
    tensors = torch.load(path, weights_only=True)
    torch.save({n: t for n, t in tensors.items() if "num_batches" not in n}, path)
    load_backbone(fresh(), path)


def test_a_classifier_whose_tensors_hold_ours_and_more_is_refused(path: Path) -> None:
    as_classifier_file("efficientnet_b0", path)
    with pytest.raises(WeightsError, match=r"model than efficientnet_lite0: it holds .*_se"):
        load_backbone(fresh(), path)


def test_a_classifier_with_too_little_is_refused(path: Path) -> None:
    as_classifier_file("efficientnet_lite0", path)
    full = build_model(model_config("efficientdet_d0", num_classes=3))
    with pytest.raises(WeightsError, match=r"weights of another model: .*se.* is missing"):
        load_backbone(full, path)
    deeper = build_model(model_config("efficientdet_lite1", num_classes=3))
    with pytest.raises(WeightsError, match="weights of another model"):
        load_backbone(deeper, path)


@pytest.mark.parametrize("values", [{"features.0.weight": torch.ones(1)}, torch.ones(1)])
def test_an_unknown_classifier_is_refused_with_the_known_ones(path: Path, values: object) -> None:
    torch.save(values, path)
    with pytest.raises(WeightsError, match="expected an efficientnet-pytorch or") as caught:
        load_backbone(fresh(), path)
    assert str(caught.value).startswith(f"{path}: ")
