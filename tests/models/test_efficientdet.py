# SPDX-License-Identifier: Apache-2.0
"""The detectors against the reference: counts, outputs, starting weights.

The reference's outputs come from its own graph run with the same deterministic weights and input.
Ours differ by at most 1.4e-5 of each output's standard deviation, as measured; the tests allow
1e-4. The larger sum-fusion models grow to 1e6, which is why nothing is compared absolutely.
"""

import ast
import copy
import functools
import re
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from effdet.anchors import feature_sizes, num_anchors
from effdet.config import MODELS, Fusion, ModelConfig, Padding, model_config
from effdet.models import EfficientDet, build_model, multiply_adds, trainable_parameters
from effdet.models.layers import convolutions
from effdet.weights import translate
from effdet.weights.formats.tensorflow import open_tensorflow
from effdet.weights.sources.automl import DETECTOR
from tests import golden
from tests.outputs import flat_outputs
from tests.weights.exported import in_memory
from tests.weights.tf_writer import write_checkpoint, write_with_raw

# Trainable parameters: all, with batch-norm statistics, backbone, P6, BiFPN cells, class, box.
PARAMETERS = {
    "d0": (3880067, 3927203, 3595388, 20672, 175609, 69354, 19044),
    "d1": (6625898, 6697354, 6101024, 28424, 362548, 101394, 32508),
    "d2": (8097039, 8178815, 7202562, 39760, 668399, 136890, 49428),
    "d3": (12032296, 12146600, 10103336, 61920, 1497554, 247050, 122436),
    "d4": (20723675, 20890987, 16742216, 101024, 3248805, 402890, 228740),
    "d5": (33653315, 33880707, 27288112, 148320, 5257573, 591498, 367812),
    "d6": (51871782, 52183766, 39403992, 222336, 10361472, 1090986, 792996),
    "d7": (51871782, 52183766, 39403992, 222336, 10361472, 1090986, 792996),
    "d7x": (77147166, 77564894, 62143440, 246912, 12865152, 1094826, 796836),
    "lite0": (3243470, 3290606, 2958848, 20672, 175552, 69354, 19044),
    "lite1": (4248318, 4311390, 3723520, 28424, 362472, 101394, 32508),
    "lite2": (5252334, 5324894, 4357952, 39760, 668304, 136890, 49428),
    "lite3": (8350862, 8455054, 6422016, 61920, 1497440, 247050, 122436),
    "lite3x": (9280862, 9392574, 6422016, 77400, 2255800, 340610, 185036),
    "lite4": (15130894, 15286398, 11149568, 101024, 3248672, 402890, 228740),
}
MULTIPLY_ADDS = {
    "d0": 2.4923, "d1": 6.0034, "d2": 10.8325, "d3": 24.5688, "d4": 54.5837, "d5": 134.1339,
    "d6": 224.1215, "d7": 322.7316, "d7x": 407.6283, "lite0": 0.9736, "lite1": 1.9666,
    "lite2": 3.3713, "lite3": 7.4802, "lite3x": 13.9781, "lite4": 20.1681,
}  # fmt: skip
SYMMETRIC_PARAMETERS = {"d0": 3877763, "d1": 6622026, "d2": 8091215, "d3": 12022376}
GOLDEN_SIZES = {"d0": (160, 224), "lite0": (160, 224), "d7x": (256, 256)}


@functools.cache
def on_meta(name: str) -> EfficientDet:
    """A model without values."""
    with torch.device("meta"):
        return EfficientDet(MODELS[f"efficientdet_{name}"]).eval()


@functools.cache
def sizeless(padding: Padding) -> EfficientDet:
    """A Lite0 for two classes without values; the graph is the same for all image sizes."""
    with torch.device("meta"):
        config = model_config("efficientdet_lite0", padding=padding, num_classes=2)
        return EfficientDet(config).eval()


def tiny(**changes: object) -> EfficientDet:
    """A Lite0 on 64 x 96 pixels for 3 classes."""
    torch.manual_seed(0)
    values: dict[str, object] = {"image_size": (64, 96), "num_classes": 3} | changes
    return build_model(model_config("efficientdet_lite0", **values))


@functools.cache
def lively(name: str = "lite0") -> EfficientDet:
    """A model for 64 x 96 pixels whose outputs vary, unlike those of fresh weights."""
    model = build_model(model_config(f"efficientdet_{name}", image_size=(64, 96)))
    tensors = in_memory(golden.variables(f"efficientdet-{name}"))
    model.load_state_dict(translate.state_dict(DETECTOR, MODELS[f"efficientdet_{name}"], tensors))
    return model.eval()


def pictures(height: int = 64, width: int = 96, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# Counts


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted_as_in_the_reference(name: str) -> None:
    model = on_meta(name)
    statistics = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    trainable = trainable_parameters(model)
    found = (
        trainable,
        trainable + statistics,
        trainable_parameters(model.backbone),
        trainable_parameters(model.bifpn.extra_levels),
        trainable_parameters(model.bifpn.cells),
        trainable_parameters(model.class_head),
        trainable_parameters(model.box_head),
    )
    assert found == PARAMETERS[name]


@pytest.mark.parametrize(("name", "billions"), MULTIPLY_ADDS.items())
def test_convolutions_do_the_references_multiply_adds(name: str, billions: float) -> None:
    model = on_meta(name)
    image = torch.empty(1, 3, *model.config.image_size, device="meta")
    assert round(multiply_adds(model, image) / 1e9, 4) == billions


@pytest.mark.parametrize(("name", "count"), SYMMETRIC_PARAMETERS.items())
def test_symmetric_variants_lack_the_biases_before_batch_norms(name: str, count: int) -> None:
    with torch.device("meta"):
        model = EfficientDet(model_config(f"efficientdet_{name}", padding="symmetric"))
    assert trainable_parameters(model) == count
    for part, eps in ((model.backbone, 1e-5), (model.bifpn, 1e-3), (model.class_head, 1e-3)):
        assert {m.eps for m in part.modules() if isinstance(m, nn.BatchNorm2d)} == {eps}


def test_batch_norms_are_the_references_everywhere() -> None:
    norms = [m for m in on_meta("d1").modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_heads_share_convolutions_over_levels_but_not_norms() -> None:
    model = on_meta("d7x")
    for head in (model.class_head, model.box_head):
        assert len(convolutions(head)) == 2 * (5 + 1)
        assert [len(norms) for norms in head.bns] == [6] * 5


# Outputs


@functools.cache
def reference_run(name: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Backbone features and outputs with the reference run's weights and input.

    The weights come out of a TensorFlow checkpoint as their averages, but for the largest.
    """
    size, model_name = GOLDEN_SIZES[name], f"efficientdet_{name}"
    model = build_model(model_config(model_name, image_size=size)).eval()
    with tempfile.TemporaryDirectory() as folder:
        values = golden.variables(f"efficientdet-{name}")
        write = write_checkpoint if name == "d7x" else write_with_raw
        stored = open_tensorflow(write(Path(folder) / "model", values)).best()
        model.load_state_dict(translate.state_dict(DETECTOR, MODELS[model_name], stored))
    with torch.no_grad():
        features = model.backbone(golden.image(*size))
        logits, deltas = flat_outputs(model, golden.image(*size))
    return features, logits, deltas


def agrees(found: Tensor, mean: float, std: float) -> None:
    assert found.mean().item() == pytest.approx(mean, abs=1e-4 * std)
    assert found.std(correction=0).item() == pytest.approx(std, rel=1e-4)


golden_models = pytest.mark.parametrize("name", GOLDEN_SIZES)


@golden_models
def test_backbone_features_are_the_references(name: str) -> None:
    features = reference_run(name)[0]
    height, width = GOLDEN_SIZES[name]
    (line,) = golden.lines(f"efficientdet-{name} ({height}, {width}) backbone")
    for feature, (shape, text) in zip(features, ast.literal_eval(line)[2:], strict=True):
        assert tuple(feature.permute(0, 2, 3, 1).shape) == shape
        _, mean, _, std = text.split()
        assert feature.mean().item() == pytest.approx(float(mean), abs=1e-4 * float(std))
        assert feature.std(correction=0).item() == pytest.approx(float(std), rel=1e-4)


@golden_models
def test_outputs_are_the_references(name: str) -> None:
    """Each level's statistics, its first logits and its last deltas (there ty, tx, th, tw)."""
    _, logits, deltas = reference_run(name)
    config = model_config(f"efficientdet_{name}", image_size=GOLDEN_SIZES[name])
    sizes = feature_sizes(config.image_size, config.min_level, config.max_level)
    counts = [9 * height * width for height, width in sizes]
    levels = zip(config.levels, logits[0].split(counts), deltas[0].split(counts), strict=True)
    for level, cls, box in levels:
        (line,) = golden.lines(f"efficientdet-{name} P{level} ")
        number = r"(-?[\d.]+(?:e[+-]?\d+)?)"
        numbers = re.search(
            rf"cls mean {number} std {number} .*?=\[(.*?)\] \| box mean {number} std {number} "
            r".*?=\[(.*?)\]",
            line,
        )
        assert numbers is not None
        cls_mean, cls_std, box_mean, box_std = (float(numbers[i]) for i in (1, 2, 4, 5))
        agrees(cls, cls_mean, cls_std)
        agrees(box, box_mean, box_std)
        first = torch.tensor([float(n) for n in numbers[3].split()])
        last = torch.tensor([float(n) for n in numbers[6].split()])
        assert_close(cls[0, :3], first, rtol=0, atol=1e-4 * cls_std)
        tx, ty, tw, th = box[-1]
        assert_close(torch.stack([tx, th, tw]), last, rtol=0, atol=1e-4 * box_std)
        del ty


@pytest.mark.parametrize("size", [(65, 97), (64, 160), (127, 66), (101, 101)])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_any_image_size_gives_one_output_an_anchor(size: tuple[int, int], padding: Padding) -> None:
    config = model_config("efficientdet_lite0", image_size=size, padding=padding, num_classes=2)
    logits, deltas = flat_outputs(sizeless(padding), torch.empty(2, 3, *size, device="meta"))
    assert logits.shape == (2, num_anchors(config), 2)
    assert deltas.shape == (2, num_anchors(config), 4)


@pytest.mark.parametrize(
    "changes", [{"min_level": 2}, {"max_level": 8}, {"num_classes": 1}, {"aspect_ratios": (1.0,)}]
)
def test_outputs_follow_levels_anchors_and_classes(changes: dict[str, object]) -> None:
    config = model_config("efficientdet_lite0", image_size=(128, 128), **changes)
    with torch.device("meta"):
        logits, deltas = flat_outputs(EfficientDet(config).eval(), torch.empty(1, 3, 128, 128))
    assert logits.shape == (1, num_anchors(config), config.num_classes)
    assert deltas.shape == (1, num_anchors(config), 4)


@torch.no_grad()
def test_a_location_of_the_head_gives_its_anchors_in_order() -> None:
    """Channel = anchor * outputs + value: the bias of one channel shows in one place."""
    model = tiny().eval()
    predict = model.class_head.predict.pointwise
    nn.init.zeros_(predict.weight)
    predict.bias.copy_(torch.arange(27.0))
    logits, _ = flat_outputs(model, pictures())
    assert torch.equal(logits.reshape(2, -1, 27), torch.arange(27.0).expand(2, num_of(model), 27))


def num_of(model: EfficientDet) -> int:
    """Locations of all levels."""
    return num_anchors(model.config) // model.config.anchors_per_location


@torch.no_grad()
def test_the_same_features_on_two_levels_get_the_same_outputs() -> None:
    """Convolutions are shared; fresh batch norms do not differ yet."""
    head = tiny().eval().class_head
    x = torch.randn(1, 64, 4, 4)
    fine, coarse = head([x, x])
    assert torch.equal(fine, coarse)
    head.bns[0][1].bias.fill_(0.5)
    fine_again, changed = head([x, x])
    assert torch.equal(fine_again, fine)
    assert not torch.allclose(changed, coarse)


@torch.no_grad()
@pytest.mark.parametrize("name", ["lite0", "d0"])
def test_running_twice_gives_the_same_and_leaves_the_images_alone(name: str) -> None:
    model, images = lively(name), pictures()
    before = images.clone()
    first, second = flat_outputs(model, images), flat_outputs(model, images)
    assert torch.equal(images, before)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["lite0", "d0"])
def test_activations_do_not_overwrite_features_that_others_use(name: str) -> None:
    """What goes into a cell and into the heads still has its value afterwards."""
    model = lively(name)
    pyramid = [torch.randn(1, 64, 2**i, 2**i) * 4 for i in (4, 3, 2, 1, 0)]
    before = [x.clone() for x in pyramid]
    outputs = model.bifpn.cells[1](pyramid)
    kept = [x.clone() for x in outputs]
    model.class_head(outputs)
    model.box_head(outputs)
    assert all(torch.equal(a, b) for a, b in zip(pyramid, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(outputs, kept, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", ["lite0", "d0"])
def test_memory_format_changes_nothing(name: str) -> None:
    model = lively(name)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    images = pictures().contiguous(memory_format=torch.channels_last)
    channels_last = flat_outputs(model, images)
    for a, b in zip(channels_last, flat_outputs(plain, pictures()), strict=True):
        assert_close(a, b, rtol=0, atol=1e-4 * float(b.std()))


def test_a_built_model_is_channels_last() -> None:
    kernels = [conv.weight for conv in convolutions(tiny())]
    assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)


@torch.no_grad()
def test_a_batch_is_its_images() -> None:
    model = lively()
    together = flat_outputs(model, pictures())
    for i in range(2):
        for a, b in zip(together, flat_outputs(model, pictures()[i : i + 1]), strict=True):
            assert_close(a[i : i + 1], b, rtol=0, atol=1e-4 * float(b.std()))


# Training


@pytest.mark.parametrize("name", ["efficientdet_lite0", "efficientdet_d0"])
@pytest.mark.parametrize("fusion", ["sum", "fastattn", "attn"])
def test_every_parameter_gets_a_gradient(name: str, fusion: Fusion) -> None:
    torch.manual_seed(0)
    model = build_model(
        model_config(name, image_size=(64, 64), num_classes=3, fusion=fusion, survival_prob=1.0)
    ).train()
    logits, deltas = flat_outputs(model, pictures(64, 64))
    (logits.square().mean() + deltas.square().mean()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_training_mode_moves_statistics_by_a_hundredth() -> None:
    model = tiny(survival_prob=1.0).train()
    stem = model.backbone.stem
    images = pictures()
    mean = stem.conv(images).mean((0, 2, 3)).detach()
    model(images)
    assert_close(stem.bn.running_mean, 0.01 * mean)


def test_stochastic_depth_acts_in_training_only() -> None:
    model = tiny(survival_prob=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    images = pictures()
    with torch.no_grad():
        model.train()
        assert not torch.equal(flat_outputs(model, images)[0], flat_outputs(model, images)[0])
        model.eval()
        assert torch.equal(flat_outputs(model, images)[0], flat_outputs(model, images)[0])


# Starting weights


@pytest.fixture(scope="module")
def fresh() -> EfficientDet:
    torch.manual_seed(0)
    config: ModelConfig = MODELS["efficientdet_d1"]
    return build_model(config)


def test_a_fresh_class_head_says_one_in_a_hundred(fresh: EfficientDet) -> None:
    bias = fresh.class_head.predict.pointwise.bias
    assert_close(bias, torch.full_like(bias, -4.59512))
    assert not fresh.box_head.predict.pointwise.bias.any()
    with torch.no_grad():
        logits, _ = flat_outputs(fresh.eval(), pictures(64, 64))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.003)


def test_fresh_heads_are_truncated_normal_by_fan_in(fresh: EfficientDet) -> None:
    width = fresh.config.width
    for head in (fresh.class_head, fresh.box_head):
        for conv in [*head.convs, head.predict]:
            for kernel, fan_in in (
                (conv.depthwise.weight, 9 * width),
                (conv.pointwise.weight, width),
            ):
                std = fan_in**-0.5
                assert kernel.std().item() == pytest.approx(std, rel=0.08)
                assert kernel.abs().max() <= 2 * std / 0.8796
        assert not any(conv.pointwise.bias.any() for conv in head.convs)


def test_a_fresh_bifpn_is_glorot_uniform(fresh: EfficientDet) -> None:
    width = fresh.config.width
    for cell in fresh.bifpn.cells:
        for node in cell.nodes:
            limit = (6 / (2 * width)) ** 0.5
            kernel = node.conv.pointwise.weight
            assert kernel.abs().max() <= limit
            assert kernel.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
            limit = (6 / (9 * width + 9)) ** 0.5  # Keras counts one output for a depthwise kernel
            kernel = node.conv.depthwise.weight
            assert kernel.abs().max() <= limit
            assert kernel.std().item() == pytest.approx(limit / 3**0.5, rel=0.15)
            assert not node.conv.pointwise.bias.any()
    lateral = fresh.bifpn.extra_levels[0].conv
    limit = (6 / (320 + width)) ** 0.5
    assert lateral.weight.abs().max() <= limit
    assert lateral.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)


def test_fresh_batch_norms_do_nothing(fresh: EfficientDet) -> None:
    for module in fresh.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
