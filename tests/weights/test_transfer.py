# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effdet.config import ClassifierConfig, model_config
from effdet.errors import WeightsError
from effdet.models import EfficientDet, EfficientNetClassifier, build_model
from effdet.models.heads import PRIOR
from effdet.structures import ClassMap
from effdet.weights import (
    Checkpoint,
    Taken,
    load_classifier,
    load_detector,
    save_checkpoint,
    transfer_backbone,
    transfer_weights,
)
from effdet.weights.sources.lukemelas import LUKEMELAS
from effdet.weights.transfer import CLASS_LAYER
from tests.tiny import tiny_model
from tests.weights.conftest import CLASS_MAP, weights
from tests.weights.exported import export

Make = Callable[..., Checkpoint]
SMALL: dict[str, Any] = {
    "backbone": "efficientnet_tiny", "width": 16, "bifpn_cells": 1, "head_repeats": 1
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_model():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


def fresh(num_classes: int = 3, **changes: Any) -> EfficientDet:
    torch.manual_seed(9)
    config = model_config("efficientdet_lite0", num_classes=num_classes)
    return build_model(dataclasses.replace(config, **(SMALL | changes))).eval()


def detector(*names: str | None, **changes: Any) -> Checkpoint:
    """A detector for classes of these names, whose rows are far from each other."""
    class_map = ClassMap(names, tuple(None if n is None else i for i, n in enumerate(names)))
    config = fresh(len(names), **changes).config
    generator = torch.Generator().manual_seed(1)
    layer = {n: torch.randn(weights(config)[n].shape, generator=generator) for n in CLASS_LAYER}
    return Checkpoint(
        model_config=config,
        class_map=class_map,
        model=weights(config) | layer,
        ema=None,
        metrics={},
        training={},
    )


def start(
    checkpoint: Checkpoint, *names: str, partial: bool = False, **changes: Any
) -> tuple[EfficientDet, EfficientDet, Taken]:
    """The detector, and a model for other classes that has begun with its weights."""
    first = build_model(checkpoint.model_config).eval()
    if checkpoint.model.keys() == first.state_dict().keys():
        first.load_state_dict(dict(checkpoint.model))
    model = fresh(len(names), **changes)
    class_map = ClassMap(names, tuple(range(7, 7 + len(names))))
    taken = transfer_weights(model, class_map, checkpoint, "a.pt", partial=partial)
    return first, model, taken


@torch.inference_mode()
def logits(model: EfficientDet, seed: int = 3) -> list[Tensor]:
    """``[anchors, classes, H, W]`` a level, of one image."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    cls_logits, _ = model(image)
    return [level[0].unflatten(0, (9, -1)) for level in cls_logits]


def test_the_same_classes_take_all_averaged_weights(make_checkpoint: Make, path: Path) -> None:
    checkpoint = make_checkpoint()
    save_checkpoint(checkpoint, path)
    model = build_model(model_config("efficientdet_lite0", num_classes=3))  # of another image size
    taken = transfer_weights(model, CLASS_MAP, load_detector(path), path)
    assert taken.line == (
        f"{path}: backbone 100 % · bifpn 100 % · box head 100 % · class head 2/2 rows by name "
        "(cat, dog)"
    )
    assert not taken.random
    assert checkpoint.ema is not None
    assert all(torch.equal(t, checkpoint.ema[n]) for n, t in model.state_dict().items())


def test_a_class_is_predicted_as_before_wherever_it_stands_now() -> None:
    """All anchors and levels; order and ids are others, and two classes are new."""
    first, model, taken = start(detector("cat", "dog", "bird"), "ant", "dog", "cow", "cat")
    assert taken.line == (
        "a.pt: backbone 100 % · bifpn 100 % · box head 100 % · class head 2/4 rows by name "
        "(dog, cat), 2 new"
    )
    assert taken.random == set(CLASS_LAYER)
    for before, now in zip(logits(first), logits(model), strict=True):
        torch.testing.assert_close(now[:, 1], before[:, 1])
        torch.testing.assert_close(now[:, 3], before[:, 0])
        assert (before[:, 0] - before[:, 1]).abs().min() > 1e-2


def test_new_rows_are_those_of_a_fresh_model_at_the_prior() -> None:
    _, model, _ = start(detector("cat", "dog", "bird"), "ant", "dog")
    untouched = fresh(2)
    for name in CLASS_LAYER:
        ours, theirs = (m.state_dict()[name].unflatten(0, (9, 2)) for m in (model, untouched))
        assert torch.equal(ours[:, 0], theirs[:, 0])
    bias = model.state_dict()[CLASS_LAYER[1]].unflatten(0, (9, 2))
    assert bias[:, 0].tolist() == pytest.approx([-math.log((1 - PRIOR) / PRIOR)] * 9)


def test_everything_but_the_class_layer_is_taken_bit_by_bit() -> None:
    first, model, _ = start(detector("cat", "dog", "bird"), "ant")
    ours, theirs = model.state_dict(), first.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours if n not in CLASS_LAYER)


def test_the_90_outputs_of_published_weights_give_rows_to_80_classes() -> None:
    names = [f"class {i}" if i % 9 else None for i in range(90)]
    first, model, taken = start(detector(*names), *filter(None, reversed(names)))
    assert taken.line.endswith(
        "80/80 rows by name (class 89, class 88, class 87, class 86, class 85 and 75 more)"
    )
    now, before = logits(model)[0], logits(first)[0]
    torch.testing.assert_close(now.flip(1), before[:, [i for i in range(90) if i % 9]])


def test_as_many_classes_of_which_none_has_a_known_name_are_refused() -> None:
    checkpoint = detector("class 1", "class 2")
    with pytest.raises(WeightsError, match=r"a.pt: has as many classes as the data, but none by "):
        start(checkpoint, "cat", "dog")
    _, _, taken = start(checkpoint, "cat", "dog", partial=True)
    assert taken.line.endswith("box head 100 % · class head 0/2 rows by name, 2 new")
    _, _, taken = start(checkpoint, "cat", "dog", "bird")
    assert taken.line.endswith("class head 0/3 rows by name, 3 new")


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"padding": "symmetric"}, "trained with --padding symmetric; give that"),
        ({"fusion": "fastattn"}, "trained with --fusion fastattn; give that"),
        ({"backbone_bn_eps": 1e-5}, "trained with --backbone-bn-eps 1e-05; give that"),
        (
            {"backbone_padding": "symmetric"},
            "trained with --backbone-padding symmetric; give",
        ),
        (
            {"padding": "symmetric", "backbone_bn_eps": 1e-3},
            "trained with --padding symmetric --backbone-bn-eps 0.001; give that",
        ),
        (
            {"mean": (127.5,) * 3, "std": (1.0, 2.0, 3.5)},
            "trained with --mean 127.5 127.5 127.5 --std 1 2 3.5; give that",
        ),
        (
            {"width": 24, "head_repeats": 2},
            "holds a model efficientdet_lite0 with width 24, head_repeats 2, not "
            "efficientdet_lite0 with width 16, head_repeats 1; give other weights, or --partial-",
        ),
        (
            {"name": "efficientdet_lite1", "backbone": "efficientnet_lite1"},
            "holds a model efficientdet_lite1 with backbone efficientnet_lite1, not "
            "efficientdet_lite0 with backbone efficientnet_tiny; give --model efficientdet_lite1",
        ),
        ({"max_level": 8}, "max_level 8"),
        ({"anchor_scale": 4.0}, "anchor_scale 4"),
        ({"aspect_ratios": (1.0, 1.4, 0.7)}, "aspect_ratios 1 1.4 0.7"),
    ],
)
def test_another_graph_is_refused_with_what_to_give(changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(WeightsError) as caught:
        start(detector("cat", **changes), "cat")
    assert str(caught.value).startswith("a.pt: ")
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_no_computation_depends_on_may_differ() -> None:
    odd: dict[str, Any] = {
        "backbone_padding": "same",
        "image_size": (64, 96),
        "survival_prob": 0.5,
        "mean": (127.00001, 127.0, 127.0),
    }
    _, _, taken = start(detector("cat", **odd), "cat")
    assert not taken.random


def test_partial_weights_take_what_fits_and_say_what_is_random() -> None:
    checkpoint = detector("cat", "dog", bifpn_cells=2, head_repeats=2)
    first, model, taken = start(checkpoint, "dog", partial=True, head_repeats=3)
    assert taken.line == (
        "a.pt: backbone 100 % · bifpn 100 % · box head 76 % · class head 69 % and 1/1 rows by name "
        "(dog); the rest is random"
    )
    ours, theirs, untouched = (m.state_dict() for m in (model, first, fresh(1, head_repeats=3)))
    assert taken.random == {n for n in ours if "head.convs.2" in n or "head.bns.2" in n}
    for name, tensor in ours.items():
        if name not in CLASS_LAYER:
            known = untouched if name in taken.random else theirs
            assert torch.equal(tensor, known[name]), name


def test_partial_weights_of_another_width_have_no_rows_and_of_another_input_say_so() -> None:
    checkpoint = detector("cat", width=24, padding="symmetric")
    _, model, taken = start(checkpoint, "cat", partial=True)
    assert taken.line.startswith("a.pt: backbone 100 % · bifpn 0 % · box head 2 % · class head 0 %")
    assert taken.line.endswith(
        "and 0/1 rows by name, 1 new; the rest is random; trained as efficientdet_lite0 with "
        "--padding symmetric"
    )
    assert set(CLASS_LAYER) < taken.random
    assert torch.equal(model.state_dict()[CLASS_LAYER[0]], fresh(1).state_dict()[CLASS_LAYER[0]])


def test_partial_weights_of_which_nothing_fits_are_refused() -> None:
    checkpoint = detector("cat")
    other = {f"x.{n}": t for n, t in checkpoint.model.items() if n not in CLASS_LAYER}
    layer = {name: checkpoint.model[name] for name in CLASS_LAYER}
    with pytest.raises(WeightsError, match=r"a.pt: no tensor of it fits into efficientdet_lite0"):
        start(dataclasses.replace(checkpoint, model=other | layer), "cat", partial=True)


@pytest.mark.parametrize("partial", [False, True])
def test_a_class_map_that_contradicts_the_head_is_refused(partial: bool) -> None:
    checkpoint = dataclasses.replace(
        detector("cat", "dog"), class_map=ClassMap(("cat", "dog", "ant"), (1, 2, 3))
    )
    with pytest.raises(WeightsError) as caught:
        start(checkpoint, "cat", partial=partial)
    assert str(caught.value) == (
        "a.pt: class_head.predict.pointwise.weight is [18, 16, 1, 1], expected [27, 16, 1, 1]: "
        "9 anchors and 3 classes as its class map"
    )


def test_a_tensor_that_is_missing_or_not_finite_is_named() -> None:
    checkpoint = detector("cat")
    name = "bifpn.cells.0.nodes.0.conv.depthwise.weight"
    without = {n: t for n, t in checkpoint.model.items() if n != name}
    with pytest.raises(WeightsError, match=f"a.pt: weights of another model: {name} is missing"):
        start(dataclasses.replace(checkpoint, model=without), "cat")
    spoilt = {**checkpoint.model, name: checkpoint.model[name] * math.nan}
    for partial in (False, True):
        with pytest.raises(WeightsError, match=f"a.pt: {name} is not a tensor of finite numbers"):
            start(dataclasses.replace(checkpoint, model=spoilt), "cat", partial=partial)


def as_classifier_file(backbone: str, path: Path, **changes: Any) -> EfficientNetClassifier:
    """Write fresh classifier weights under the names of ``efficientnet-pytorch``."""
    torch.manual_seed(4)
    config = ClassifierConfig(backbone=backbone, **changes)
    model = EfficientNetClassifier(config)
    torch.save(export(LUKEMELAS, config, model.state_dict()), path)
    return model


def take_backbone(model: EfficientDet, path: Path) -> Taken:
    return transfer_backbone(model, load_classifier(path), path)


def test_a_backbone_is_taken_whole_from_a_classifier(path: Path) -> None:
    classifier = as_classifier_file("efficientnet_lite0", path)
    model = fresh(backbone="efficientnet_lite0")
    head = {n: t.clone() for n, t in model.state_dict().items() if not n.startswith("backbone.")}
    taken = take_backbone(model, path)
    assert taken.line == (f"{path}: backbone 100 % (efficientnet-pytorch); BiFPN and heads are new")
    assert taken.random == set(head)
    ours, theirs = model.backbone.state_dict(), classifier.backbone.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in head.items())


def test_a_file_without_step_counters_is_taken_too(path: Path) -> None:
    """Files written before PyTorch 0.4.1 have no ``num_batches_tracked``."""
    as_classifier_file("efficientnet_lite0", path)
    tensors = torch.load(path, weights_only=True)
    torch.save({n: t for n, t in tensors.items() if "num_batches" not in n}, path)
    take_backbone(fresh(backbone="efficientnet_lite0"), path)


@pytest.mark.parametrize("model", ["efficientdet_d0", "efficientdet_lite1"])
def test_the_classifier_of_another_backbone_is_refused(model: str, path: Path) -> None:
    as_classifier_file("efficientnet_lite0", path)
    with torch.device("meta"):
        other = EfficientDet(model_config(model, num_classes=3))
    with pytest.raises(WeightsError, match=r"of efficientnet_lite0, not of .*another --model"):
        take_backbone(other, path)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"padding": "symmetric"}, "--padding same --backbone-bn-eps 0.001"),
        ({"backbone_bn_eps": 1e-5}, "--backbone-bn-eps 0.001"),
        ({"mean": (0.0, 0.0, 0.0)}, "--mean 127 127 127"),
    ],
)
def test_a_backbone_that_computes_otherwise_is_refused_with_the_option_to_give(
    changes: dict[str, Any], advice: str, path: Path
) -> None:
    as_classifier_file("efficientnet_lite0", path)
    with pytest.raises(WeightsError) as caught:
        take_backbone(fresh(backbone="efficientnet_lite0", **changes), path)
    assert str(caught.value) == f"{path}: trained with {advice}; give that"


def test_a_detector_is_no_classifier_and_a_classifier_no_detector(path: Path) -> None:
    as_classifier_file("efficientnet_lite0", path)
    with pytest.raises(WeightsError, match=r"goes to train\.py --backbone-weights"):
        load_detector(path)
    save_checkpoint(detector("a", "b"), path)
    with pytest.raises(WeightsError, match="goes to --weights"):
        load_classifier(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"features.0.weight": torch.ones(1)}, "names of no program this toolkit knows"),
        (torch.ones(1), "expected tensors with names"),
    ],
)
def test_an_unknown_classifier_is_refused(path: Path, values: object, said: str) -> None:
    torch.save(values, path)
    with pytest.raises(WeightsError, match=said) as caught:
        load_classifier(path)
    assert str(caught.value).startswith(f"{path}: ")


def with_anchors(checkpoint: Checkpoint, **changes: Any) -> tuple[EfficientDet, Taken]:
    """A model with anchors that were asked for, and what it took."""
    model = fresh(1, **changes)
    class_map = ClassMap(("cat",), (7,))
    return model, transfer_weights(model, class_map, checkpoint, "a.pt", other_anchors=True)


def test_heads_begin_with_those_for_as_many_other_anchors_where_they_are_asked_for() -> None:
    checkpoint = detector("cat")
    model, taken = with_anchors(checkpoint, aspect_ratios=(1.0, 3.0, 0.3), anchor_scale=2.0)
    assert not taken.random
    assert model.config.aspect_ratios == (1.0, 3.0, 0.3)
    name = CLASS_LAYER[0]
    assert torch.equal(model.state_dict()[name], checkpoint.model[name])


def test_heads_for_another_number_of_anchors_are_refused_with_the_reason() -> None:
    with pytest.raises(WeightsError) as caught:
        with_anchors(detector("cat"), aspect_ratios=(1.0, 2.0, 0.5, 4.0))
    assert str(caught.value) == (
        "a.pt: its heads are for 9 anchors at a place (3 aspect ratios x 3 sizes), --anchors has "
        "12; give --anchors with 9, or --partial-weights to begin with new heads"
    )


def test_other_anchors_excuse_no_other_difference() -> None:
    with pytest.raises(WeightsError, match="bifpn_cells 2, not"):
        with_anchors(detector("cat", bifpn_cells=2), aspect_ratios=(1.0, 3.0, 0.3))
