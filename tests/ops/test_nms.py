# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression: worked numbers, plain forms, torchvision, kernel against definition."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet.ops import nms
from effdet.ops.nms import Suppression, reference

OP = torch.ops.effdet.nms.default
METHODS = ("hard", "linear", "gaussian")
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
INF, NAN = float("inf"), float("nan")

# The reference's soft-NMS example: three boxes on one another and one apart.
BOXES = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 4.5], [20, 0, 30, 10]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6])
ONE_CLASS = torch.zeros(4, dtype=torch.int64)


def nms_of_one(
    boxes: Tensor, scores: Tensor, labels: Tensor, method: str, **settings: Any
) -> tuple[list[int], list[float]]:
    """Indices and scores of the picks of one image."""
    settings = {"score_threshold": 0.001} | settings
    found = nms(boxes[None], scores[None], labels[None], method=method, **settings)
    count = int(found.counts[0])
    assert not found.picks[0, count:].any()
    assert (found.scores[0, count:] == -1).all()
    return found.picks[0, :count].tolist(), found.scores[0, :count].tolist()


def arguments(
    boxes: Tensor, scores: Tensor, labels: Tensor, method: str = "hard", **changes: Any
) -> tuple[Any, ...]:
    """All arguments of the operator."""
    settings = {
        "iou_threshold": 0.5,
        "sigma": 0.5,
        "score_threshold": 0.001,
        "max_detections": 100,
        "max_per_class": 0,
        "class_agnostic": False,
    }
    return boxes, scores, labels, method, *(settings | changes).values()


def crowd(count: int, seed: int, num_classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Crowded boxes with falling scores."""
    generator = torch.Generator().manual_seed(seed)
    top_left = torch.rand(count, 2, generator=generator) * 30
    sizes = 5 + torch.rand(count, 2, generator=generator) * 30
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    labels = torch.randint(num_classes, (count,), generator=generator)
    return torch.cat([top_left, top_left + sizes], 1), scores, labels


def adversarial(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates in any order: grids of equal boxes and scores, no areas, turned-over, infinite."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 80, (1,), generator=generator))
    steps = int(torch.randint(2, 9, (1,), generator=generator))
    boxes = torch.randint(0, steps, (count, 4), generator=generator).float()
    if seed % 3:  # two corners in order; else some boxes are turned over
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    boxes = boxes * (1e-3, 1.0, 1e4, 1e19)[seed % 4] - (seed % 5) * steps / 2
    if seed % 7 == 0:
        bad = torch.rand(boxes.shape, generator=generator) < 0.05
        boxes[bad] = (INF, NAN, -INF)[seed % 3]
    # 0 and below are at or below every threshold: they are never picked.
    scores = torch.randint(-1, 2 + seed % 12, (count,), generator=generator) / 8
    labels = torch.randint(1 + seed % 4, (count,), generator=generator)
    return boxes, scores, labels * (1, 10**12, -7)[seed % 3]


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def plain_nms_of_one_class(
    boxes: np.ndarray, scores: np.ndarray, method: str, score_threshold: float
) -> list[tuple[float, int]]:
    """Soft-NMS as the paper prints it, a box at a time."""
    left = {i: float(s) for i, s in enumerate(scores) if s > score_threshold}
    picked = []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        picked.append((left.pop(best), best))
        for i in left:
            iou = plain_iou(boxes[best], boxes[i])
            if method == "gaussian":
                left[i] *= np.exp(-iou * iou / 0.5)
            elif iou > 0.5:
                left[i] *= 1 - iou if method == "linear" else 0
        left = {i: s for i, s in left.items() if s > score_threshold}
    return picked


def plain_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, method: str, score_threshold: float, limit: int
) -> tuple[list[int], list[float]]:
    """Each class alone, at most ``limit`` a class, then merged and cut to the best ``limit``."""
    merged = []
    for label in labels.unique():
        index = (labels == label).nonzero()[:, 0].numpy()
        picked = plain_nms_of_one_class(
            boxes[index].double().numpy(), scores[index].numpy(), method, score_threshold
        )
        merged += [(score, int(index[i])) for score, i in picked[:limit]]
    merged.sort(key=lambda pair: (-pair[0], pair[1]))
    return [i for _, i in merged[:limit]], [score for score, _ in merged[:limit]]


def torchvision_per_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float
) -> list[int]:
    """``torchvision.ops.nms`` of each class, merged by a stable sort (score, then index)."""
    ops = pytest.importorskip("torchvision.ops")
    parts = []
    for label in labels[scores > 0].unique():
        index = ((labels == label) & (scores > 0)).nonzero()[:, 0]
        parts.append(index[ops.nms(boxes[index], scores[index], iou_threshold)])
    merged = torch.cat([*parts, torch.zeros(0, dtype=torch.int64)]).sort().values
    order = scores[merged].sort(descending=True, stable=True).indices
    return merged[order].tolist()


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- numbers worked by hand ---


def test_gaussian_gives_the_scores_of_the_reference() -> None:
    picks, scores = nms_of_one(BOXES, SCORES, ONE_CLASS, "gaussian")
    assert picks == [0, 3, 2, 1]
    assert scores == pytest.approx([0.9, 0.6, 0.46688, 0.13138], abs=1e-5)


def test_gaussian_does_not_look_at_the_iou_threshold() -> None:
    expected = nms_of_one(BOXES, SCORES, ONE_CLASS, "gaussian", iou_threshold=0.5)
    for iou_threshold in (0.0, 1.0):
        found = nms_of_one(BOXES, SCORES, ONE_CLASS, "gaussian", iou_threshold=iou_threshold)
        assert found == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [("gaussian", [0.9, 0.6, 0.4245715, 0.1079262]), ("linear", [0.9, 0.6, 0.35, 0.0681818])],
)
def test_pixel_counting_boxes_give_the_scores_of_the_other_reference(
    method: str, expected: list[float]
) -> None:
    # The numpy reference counts the last pixel: the same as boxes that end one pixel later.
    boxes = BOXES + torch.tensor([0, 0, 1, 1])
    picks, scores = nms_of_one(boxes, SCORES, ONE_CLASS, method, iou_threshold=0.3)
    assert picks == [0, 3, 2, 1]
    assert scores == pytest.approx(expected, abs=1e-6)


def test_hard_removes_what_overlaps_by_more_than_the_threshold() -> None:
    for iou_threshold, expected in ((0.4, [0, 3]), (0.5, [0, 2, 3]), (0.71, [0, 1, 2, 3])):
        picks, scores = nms_of_one(BOXES, SCORES, ONE_CLASS, "hard", iou_threshold=iou_threshold)
        assert picks == expected
        assert_close(torch.tensor(scores), SCORES[expected])


@pytest.mark.parametrize("method", ["hard", "linear"])
def test_an_overlap_of_exactly_the_threshold_costs_nothing(method: str) -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 4]])
    found = nms_of_one(boxes, SCORES[:2], ONE_CLASS[:2], method, iou_threshold=0.5)
    assert found[1] == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("function", [OP, reference])
def test_the_threshold_is_compared_in_double(function: Any) -> None:
    # The float32 nearest to 0.7 is below 0.7, that nearest to 0.1 above 0.1.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 7]], [[0.0, 0, 10, 10], [0, 0, 10, 1]]])
    scores, labels = SCORES[:2].expand(2, 2), ONE_CLASS[:2].expand(2, 2)
    for iou_threshold, expected in ((0.7, [2, 2]), (0.1, [1, 1]), (0.6999999, [1, 2])):
        settings = {"iou_threshold": iou_threshold}
        _, _, counts = function(*arguments(boxes, scores, labels, **settings))
        assert counts.tolist() == expected


# --- invariants ---


@pytest.mark.parametrize("method", METHODS)
def test_other_classes_are_left_alone(method: str) -> None:
    boxes = BOXES[:1].expand(4, 4)
    picks, scores = nms_of_one(boxes, SCORES, torch.arange(4), method)
    assert picks == [0, 1, 2, 3]
    assert scores == pytest.approx(SCORES.tolist())


@pytest.mark.parametrize("method", METHODS)
def test_class_agnostic_is_one_class(method: str) -> None:
    boxes, scores, labels = crowd(80, 1)
    found = nms_of_one(boxes, scores, labels, method, class_agnostic=True)
    assert found == nms_of_one(boxes, scores, torch.zeros_like(labels), method)
    assert found != nms_of_one(boxes, scores, labels, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_a_limit_per_class_drops_the_later_picks_of_a_class(
    method: str, class_agnostic: bool
) -> None:
    boxes = torch.arange(12.0)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])
    scores, labels = (
        torch.linspace(0.9, 0.4, 12),
        torch.tensor([0, 0, 0, 1, 0, 2, 1, 1, 1, 2, 2, 0]),
    )
    settings = {"max_per_class": 2, "class_agnostic": class_agnostic}
    assert nms_of_one(boxes, scores, labels, method, **settings)[0] == [0, 1, 3, 5, 6, 9]


def test_what_the_limit_drops_suppresses_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 0, 60, 10], [50, 0, 60, 9]])
    labels = torch.tensor([0, 0, 1])
    settings = {"max_per_class": 1, "class_agnostic": True}
    assert nms_of_one(boxes, SCORES[:3], labels, "hard", **settings)[0] == [0, 2]


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_candidates_does_not_matter(method: str) -> None:
    boxes, scores, labels = crowd(400, 7)  # more than are sorted the simple way
    order = torch.randperm(400, generator=torch.Generator().manual_seed(8))
    picks, kept = nms_of_one(boxes[order], scores[order], labels[order], method)
    expected = nms_of_one(boxes, scores, labels, method)
    assert order[picks].tolist() == expected[0]
    assert kept == expected[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_singles(method: str) -> None:
    images = [crowd(80, seed) for seed in range(3)]
    boxes, scores, labels = (torch.stack(parts) for parts in zip(*images, strict=True))
    settings = {"method": method, "max_detections": 70, "score_threshold": 0.3}
    found = nms(boxes, scores, labels, **settings)
    for i, image in enumerate(images):
        single = nms_of_one(*image, **settings)
        count = len(single[0])
        assert 0 < count < 70
        assert found.counts[i] == count
        assert (found.picks[i, :count].tolist(), found.scores[i, :count].tolist()) == single


def test_equal_boxes_of_equal_score_go_by_lowest_index() -> None:
    boxes, scores = BOXES[:1].expand(4, 4), torch.full((4,), 0.5)
    assert nms_of_one(boxes, scores, ONE_CLASS, "hard")[0] == [0]
    assert nms_of_one(boxes, scores, ONE_CLASS, "gaussian")[0] == [0, 1, 2, 3]


@pytest.mark.parametrize("method", METHODS)
def test_boxes_without_area_suppress_nothing(method: str) -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5]]).expand(4, 4)
    picks, scores = nms_of_one(boxes, SCORES, ONE_CLASS, method)
    assert picks == [0, 1, 2, 3]
    assert scores == pytest.approx(SCORES.tolist())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", [OP, reference])
def test_nan_scores_and_scores_at_the_threshold_are_never_picked(
    function: Any, method: str
) -> None:
    scores = torch.tensor([[NAN, 0.25, 0.5, -1.0]])
    values = arguments(BOXES[None], scores, ONE_CLASS[None], method, score_threshold=0.25)
    picks, kept, counts = function(*values)
    assert (picks.tolist(), counts.tolist()) == ([[2, 0, 0, 0]], [1])
    assert kept.tolist() == [[0.5, -1, -1, -1]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("function", [OP, reference])
def test_empty_input_gives_no_picks(function: Any, shape: tuple[int, int]) -> None:
    labels = torch.zeros(shape, dtype=torch.int64)
    values = arguments(torch.zeros(*shape, 4), torch.zeros(shape), labels)
    picks, scores, counts = function(*values)
    assert (picks.shape, scores.shape, counts.shape) == (shape, shape, shape[:1])
    assert not counts.any()


# --- plain forms and torchvision ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("limit", [15, 400])
def test_one_pass_is_the_merge_of_separate_classes(method: str, limit: int) -> None:
    for seed in range(4):
        boxes, scores, labels = crowd(150, seed)
        settings = {"score_threshold": 0.05, "max_detections": limit}
        picks, kept = nms_of_one(boxes, scores, labels, method, **settings)
        expected = plain_nms(boxes, scores, labels, method, 0.05, limit)
        assert picks == expected[0]
        assert kept == pytest.approx(expected[1], abs=1e-6)


def check_against_torchvision(seeds: range) -> None:
    """Order and content on random and adversarial cases, a random threshold each."""
    for seed in seeds:
        boxes, scores, labels = adversarial(seed) if seed % 4 else crowd(60, seed)
        iou_threshold = (0.0, 0.1, 0.25, 0.5, 0.7, 1.0)[seed // 4 % 6]
        settings = {"score_threshold": 0.0, "max_detections": 100, "iou_threshold": iou_threshold}
        picks, _ = nms_of_one(boxes, scores, labels, "hard", **settings)
        expected = torchvision_per_class(boxes, scores, labels, iou_threshold)
        assert picks == expected, f"seed {seed}"


def test_hard_is_torchvisions_nms_of_each_class() -> None:
    check_against_torchvision(range(3000))


@pytest.mark.slow
def test_hard_is_torchvisions_nms_of_each_class_in_100_000_cases() -> None:
    check_against_torchvision(range(3000, 103000))


def test_hard_is_torchvisions_batched_nms() -> None:
    # Coordinates in eighths of a pixel: there its offset to the boxes of each class is exact.
    ops = pytest.importorskip("torchvision.ops")
    for seed in range(20):
        boxes, scores, labels = crowd(300, seed, num_classes=90)
        boxes = (boxes * 8).round() / 8
        settings = {"max_detections": 300, "score_threshold": 0.0, "iou_threshold": 0.3}
        picks, _ = nms_of_one(boxes, scores, labels, "hard", **settings)
        assert picks == ops.batched_nms(boxes, scores, labels, 0.3).tolist()


# --- kernel = definition ---


def assert_same(found: Any, expected: Any) -> None:
    """Equal picks and counts, nearly equal scores."""
    assert torch.equal(found[0], expected[0])
    assert_close(found[1], expected[1], rtol=1e-5, atol=1e-7)
    assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_kernel_equals_reference(method: str, device: str) -> None:
    for seed in range(12):
        images = [crowd(300, 20 * seed + i, num_classes=1 + seed % 5) for i in range(2)]
        boxes, scores, labels = (
            torch.stack(parts).to(device) for parts in zip(*images, strict=True)
        )
        changes = {
            "iou_threshold": (0.1, 0.5, 0.9)[seed % 3],
            "sigma": (0.5, 0.1, 3.0)[seed % 3],
            "score_threshold": (0.0, 0.02, 0.4)[seed % 3],
            "max_detections": (1, 100, 1000)[seed % 3],
            "max_per_class": (0, 7)[seed % 2],
            "class_agnostic": seed % 4 == 3,
        }
        values = arguments(boxes, scores, labels, method, **changes)
        assert_same(OP(*values), reference(*values))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_kernel_equals_reference_on_adversarial_boxes(method: str, device: str) -> None:
    for seed in range(100):
        image = [part[None].to(device) for part in adversarial(seed)]
        changes = {"max_per_class": seed % 3, "class_agnostic": seed % 5 == 0, "sigma": 0.3}
        if method != "hard":  # decays of equal products in another order would swap equal scores
            image[1] = image[1] * torch.linspace(1, 0.9, image[1].shape[1], device=device)
        values = arguments(*image, method, **changes)
        assert_same(OP(*values), reference(*values))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", [OP, reference])
def test_infinite_scores_and_a_sharp_sigma(function: Any, method: str) -> None:
    boxes, scores = BOXES[None, [0, 0, 3]], torch.tensor([[INF, 1.0, 0.5]])
    values = arguments(boxes, scores, ONE_CLASS[None, :3], method, sigma=1e-38, score_threshold=0.0)
    picks, kept, counts = function(*values)
    assert (picks.tolist(), counts.tolist()) == ([[0, 2, 0]], [2])
    assert kept.tolist() == [[INF, 0.5, -1]]


def test_inputs_of_any_strides_are_read_right() -> None:
    boxes, scores, labels = (torch.stack([part] * 2) for part in crowd(50, 3))
    expected = nms(boxes, scores, labels)
    strided = nms(
        boxes.transpose(0, 1).contiguous().transpose(0, 1),
        scores.repeat_interleave(2, 1)[:, ::2],
        labels.t().contiguous().t(),
    )
    for found, wanted in zip(strided, expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("method", METHODS)
def test_same_bits_on_any_number_of_threads(method: str, restored_threads: None) -> None:
    images = [crowd(700, seed) for seed in range(5)]
    boxes, scores, labels = (torch.stack(parts) for parts in zip(*images, strict=True))
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(nms(boxes, scores, labels, method=method))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_the_baseline_instruction_set_passes_the_same_tests() -> None:
    chosen = "kernel_equals_reference or infinite or scores_of"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "not slow and not gpu", "-k", chosen, __file__],
        env=os.environ | {"EFFDET_INSTRUCTION_SET": "baseline"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_opcheck(method: str, device: str) -> None:
    boxes, scores, labels = (torch.stack([part] * 2).to(device) for part in crowd(30, 2))
    torch.library.opcheck(OP, arguments(boxes, scores, labels, method, max_detections=20))


@pytest.mark.gpu
def test_cuda_needs_no_host_sync() -> None:
    images = [crowd(2000, seed, num_classes=90) for seed in range(4)]
    boxes, scores, labels = (torch.stack(parts).cuda() for parts in zip(*images, strict=True))
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [nms(boxes, scores, labels, method=method) for method in METHODS]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all((result.counts > 0).all() for result in results)


# --- compile, export ---


class Module(torch.nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Suppression:
        return nms(boxes, scores, labels, method="gaussian", score_threshold=0.01)


def test_compiles_as_one_graph() -> None:
    values = [torch.stack([part] * 2) for part in crowd(50, 4)]
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*values), Module()(*values), strict=True):
        assert torch.equal(found, expected)


def test_exports_with_a_dynamic_batch_and_number_of_candidates() -> None:
    values = tuple(torch.stack([part] * 2) for part in crowd(50, 4))
    batch, count = torch.export.Dim("batch"), torch.export.Dim("count")
    shapes = {name: {0: batch, 1: count} for name in ("boxes", "scores", "labels")}
    program = torch.export.export(Module(), values, dynamic_shapes=shapes).module()
    for images, candidates in ((5, 20), (1, 300)):
        values = tuple(torch.stack([part] * images) for part in crowd(candidates, 5))
        for found, expected in zip(program(*values), Module()(*values), strict=True):
            assert torch.equal(found, expected)


# --- mistakes ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "soft"}, "method must be gaussian, linear or hard, got 'soft'"),
        ({"iou_threshold": 1.1}, r"iou_threshold must be in \[0, 1\], got 1.1"),
        ({"iou_threshold": NAN}, "iou_threshold must be .*nan"),
        ({"score_threshold": -0.1}, "score_threshold must be .*-0.1"),
        ({"sigma": 0.0}, "sigma must be .*0.0"),
        ({"sigma": INF}, "sigma must be .*inf"),
        ({"max_detections": 1.5}, "max_detections must be an integer, got 1.5"),
        ({"max_detections": 0}, "max_detections must be at least 1 .*, got 0"),
        ({"max_per_class": -1}, "max_per_class must be at least 0 .*, got -1"),
        ({"boxes": torch.zeros(2, 3, 5)}, r"boxes must be \[B, C, 4\], got \[2, 3, 5\]"),
        ({"boxes": torch.zeros(2, 3, 4).half()}, "boxes must be torch.float32, .*float16"),
        ({"scores": torch.zeros(2, 4)}, r"scores must be \[B, C\] = \[2, 3\], got \[2, 4\]"),
        ({"scores": torch.zeros(2, 3, 1)}, r"scores must be .* got \[2, 3, 1\]"),
        ({"scores": torch.zeros(2, 3).double()}, "scores must be torch.float32, .*float64"),
        ({"labels": torch.zeros(2, 3)}, "labels must be torch.int64, got torch.float32"),
        ({"labels": torch.zeros(2, 3, dtype=torch.int64, device="meta")}, "cpu, got meta"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    values = {
        "boxes": torch.zeros(2, 3, 4),
        "scores": torch.zeros(2, 3),
        "labels": torch.zeros(2, 3, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=message):
        nms(**(values | change))


def test_the_kernel_refuses_what_would_be_read_out_of_bounds() -> None:
    boxes, scores, labels = BOXES[None], SCORES[None], ONE_CLASS[None]
    for bad in (
        (boxes[..., :3], scores, labels),
        (boxes, scores[:, :3], labels),
        (boxes, scores, labels[:, :3]),
        (boxes, scores, labels.int()),
        (boxes.double(), scores, labels),
    ):
        with pytest.raises(RuntimeError):
            OP(*arguments(*bad))
