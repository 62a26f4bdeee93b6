# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet.config import PostprocessConfig
from effdet.levels import as_one_level
from effdet.postprocess import Postprocess, select_candidates, suppress
from effdet.structures import ClassMap, Detections, Target

# The reference's soft-NMS example: three boxes on one another and one apart.
BOXES = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 4.5], [20, 0, 30, 10]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6])
NO_LABELS = torch.zeros(4, dtype=torch.int64)


def suppress_one(
    boxes: Tensor, scores: Tensor, labels: Tensor, method: str, **settings: float
) -> tuple[list[int], list[float]]:
    """Indices and scores of the picks of one image."""
    settings = {"score_threshold": 0.001, "max_detections": 100} | settings
    picks, kept = suppress(boxes[None], scores[None], labels[None], method=method, **settings)
    count = int((kept[0] > settings["score_threshold"]).sum())
    return picks[0, :count].tolist(), kept[0, :count].tolist()


def target(scale: float = 1.0, size: tuple[int, int] = (64, 64)) -> Target:
    return Target(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        crowd=torch.zeros(0, dtype=torch.bool),
        image_id=1,
        scale=scale,
        size=size,
    )


def random_candidates(count: int, seed: int, num_classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Crowded boxes with falling scores."""
    generator = torch.Generator().manual_seed(seed)
    top_left = torch.rand(count, 2, generator=generator) * 30
    sizes = 5 + torch.rand(count, 2, generator=generator) * 30
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    labels = torch.randint(num_classes, (count,), generator=generator)
    return torch.cat([top_left, top_left + sizes], 1), scores, labels


def numpy_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def numpy_nms_of_one_class(
    boxes: np.ndarray, scores: np.ndarray, method: str, score_threshold: float
) -> list[tuple[float, int]]:
    """Soft-NMS as the paper prints it, a box at a time."""
    left = {i: float(s) for i, s in enumerate(scores) if s > score_threshold}
    picked = []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        picked.append((left.pop(best), best))
        for i in left:
            iou = numpy_iou(boxes[best], boxes[i])
            if method == "gaussian":
                left[i] *= np.exp(-iou * iou / 0.5)
            elif iou > 0.5:
                left[i] *= 1 - iou if method == "linear" else 0
        left = {i: s for i, s in left.items() if s > score_threshold}
    return picked


def numpy_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, method: str, score_threshold: float, limit: int
) -> tuple[list[int], list[float]]:
    """Each class alone, at most ``limit`` a class, then merged and cut to the best ``limit``."""
    merged = []
    for label in labels.unique():
        index = (labels == label).nonzero()[:, 0].numpy()
        picked = numpy_nms_of_one_class(
            boxes[index].double().numpy(), scores[index].numpy(), method, score_threshold
        )
        merged += [(score, int(index[i])) for score, i in picked[:limit]]
    merged.sort(key=lambda pair: (-pair[0], pair[1]))
    return [i for _, i in merged[:limit]], [score for score, _ in merged[:limit]]


def test_gaussian_gives_the_scores_of_the_reference() -> None:
    picks, scores = suppress_one(BOXES, SCORES, NO_LABELS, "gaussian")
    assert picks == [0, 3, 2, 1]
    assert scores == pytest.approx([0.9, 0.6, 0.46688, 0.13138], abs=1e-5)


def test_gaussian_does_not_look_at_the_iou_threshold() -> None:
    expected = suppress_one(BOXES, SCORES, NO_LABELS, "gaussian", iou_threshold=0.5)
    for iou_threshold in (0.0, 1.0):
        found = suppress_one(BOXES, SCORES, NO_LABELS, "gaussian", iou_threshold=iou_threshold)
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
    picks, scores = suppress_one(boxes, SCORES, NO_LABELS, method, iou_threshold=0.3)
    assert picks == [0, 3, 2, 1]
    assert scores == pytest.approx(expected, abs=1e-6)


def test_hard_removes_what_overlaps_by_more_than_the_threshold() -> None:
    for iou_threshold, expected in ((0.4, [0, 3]), (0.5, [0, 2, 3]), (0.71, [0, 1, 2, 3])):
        picks, scores = suppress_one(BOXES, SCORES, NO_LABELS, "hard", iou_threshold=iou_threshold)
        assert picks == expected
        assert_close(torch.tensor(scores), SCORES[expected])


@pytest.mark.parametrize("method", ["hard", "linear"])
def test_an_overlap_of_exactly_the_threshold_costs_nothing(method: str) -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 4]])
    found = suppress_one(boxes, SCORES[:2], NO_LABELS[:2], method, iou_threshold=0.5)
    assert found[1] == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_other_classes_are_left_alone(method: str) -> None:
    boxes = BOXES[:1].expand(4, 4)
    picks, scores = suppress_one(boxes, SCORES, torch.arange(4), method)
    assert picks == [0, 1, 2, 3]
    assert scores == pytest.approx(SCORES.tolist())


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("limit", [15, 400])
def test_one_pass_is_the_merge_of_separate_classes(method: str, limit: int) -> None:
    for seed in range(4):
        boxes, scores, labels = random_candidates(150, seed)
        settings = {"score_threshold": 0.05, "max_detections": limit}
        picks, kept = suppress_one(boxes, scores, labels, method, **settings)
        expected = numpy_nms(boxes, scores, labels, method, 0.05, limit)
        assert picks == expected[0]
        assert kept == pytest.approx(expected[1], abs=1e-6)


def test_hard_is_torchvisions_batched_nms() -> None:
    ops = pytest.importorskip("torchvision.ops")
    for seed, iou_threshold in itertools.product(range(3), (0.3, 0.7)):
        boxes, scores, labels = random_candidates(300, seed)
        settings = {"max_detections": 300, "score_threshold": 0.0}
        picks, _ = suppress_one(
            boxes, scores, labels, "hard", iou_threshold=iou_threshold, **settings
        )
        assert picks == ops.batched_nms(boxes, scores, labels, iou_threshold).tolist()


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_the_order_of_candidates_does_not_matter(method: str) -> None:
    boxes, scores, labels = random_candidates(100, 7)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(8))
    picks, kept = suppress_one(boxes[order], scores[order], labels[order], method)
    expected = suppress_one(boxes, scores, labels, method)
    assert order[picks].tolist() == expected[0]
    assert kept == expected[1]


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_a_batch_is_its_singles(method: str) -> None:
    images = [random_candidates(80, seed) for seed in range(3)]
    boxes, scores, labels = (torch.stack(parts) for parts in zip(*images, strict=True))
    picks, kept = suppress(
        boxes, scores, labels, method=method, max_detections=70, score_threshold=0.3
    )
    for i, image in enumerate(images):
        single = suppress_one(*image, method, max_detections=70, score_threshold=0.3)
        count = len(single[0])
        assert 0 < count < 70
        assert (picks[i, :count].tolist(), kept[i, :count].tolist()) == single
        assert not (kept[i, count:] > 0.3).any()


def test_equal_boxes_of_equal_score_go_by_lowest_index() -> None:
    boxes, scores = BOXES[:1].expand(4, 4), torch.full((4,), 0.5)
    assert suppress_one(boxes, scores, NO_LABELS, "hard")[0] == [0]
    assert suppress_one(boxes, scores, NO_LABELS, "gaussian")[0] == [0, 1, 2, 3]


def test_boxes_without_area_suppress_nothing() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5]]).expand(4, 4)
    picks, scores = suppress_one(boxes, SCORES, NO_LABELS, "gaussian")
    assert picks == [0, 1, 2, 3]
    assert scores == pytest.approx(SCORES.tolist())


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="gaussian, linear or hard, got 'soft'"):
        suppress_one(BOXES, SCORES, NO_LABELS, "soft")


def test_candidates_are_the_best_pairs_in_falling_order() -> None:
    logits = torch.randn(2, 300, 7, generator=torch.Generator().manual_seed(0))
    found = select_candidates(logits, 50)
    expected = logits.flatten(1).topk(50)
    assert_close(found.logits, expected.values)
    assert torch.equal(found.anchors * 7 + found.labels, expected.indices)


def test_fewer_pairs_than_wanted_are_all_taken() -> None:
    found = select_candidates(torch.randn(2, 3, 4), 5000)
    pairs = (found.anchors * 4 + found.labels).sort(1).values
    assert torch.equal(pairs, torch.arange(12).expand(2, 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_logits_are_taken_by_lowest_flat_index(dtype: torch.dtype) -> None:
    # Whole numbers in -3..3 with both zeros: nearly all of them are equal to many others.
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(-3, 4, (3, 60, 5), generator=generator).to(dtype)
    logits[:, ::2] *= -1
    for count in (1, 17, 100, 250):
        found = select_candidates(logits, count)
        order = (
            logits.float().flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :count]
        )
        assert torch.equal(found.anchors * 5 + found.labels, order)


def test_excluded_classes_leave_their_places_to_others() -> None:
    logits = torch.tensor([[[9.0, 1.0, 8.0], [7.0, 2.0, 6.0]]])
    found = select_candidates(logits, 2, exclude=(0, 2))
    assert found.labels.tolist() == [[1, 1]]
    assert found.anchors.tolist() == [[1, 0]]


ANCHORS = torch.tensor([[0.0, 0, 16, 16], [16, 0, 32, 16], [0, 16, 16, 32], [16, 16, 32, 32]])


def run(
    cls_logits: Tensor, box_deltas: Tensor | None = None, **changes: object
) -> list[Detections]:
    """Post-process a batch over :data:`ANCHORS`, with deltas of zero unless given."""
    scale, size = changes.pop("scale", 1.0), changes.pop("size", (64, 64))
    class_map = changes.pop("class_map", None)
    config = PostprocessConfig(**changes)
    process = Postprocess(anchors=ANCHORS, config=config, class_map=class_map)
    deltas = torch.zeros(*cls_logits.shape[:2], 4) if box_deltas is None else box_deltas
    return process(
        as_one_level(cls_logits), as_one_level(deltas), [target(scale, size)] * len(cls_logits)
    )


def background(num_images: int = 1, num_classes: int = 2) -> Tensor:
    return torch.full((num_images, len(ANCHORS), num_classes), -20.0)


def test_detections_are_sigmoid_scores_on_boxes_in_original_pixels() -> None:
    logits = background(2)
    logits[0, 1, 1], logits[0, 2, 0], logits[1, 3, 1] = 0.0, 2.0, -1.0
    first, second = run(logits, scale=0.5)
    assert first.labels.tolist() == [0, 1]
    assert_close(first.scores, torch.tensor([2.0, 0.0]).sigmoid())
    assert_close(first.boxes, ANCHORS[[2, 1]] * 2)
    assert (len(second), second.labels.tolist()) == (1, [1])
    assert_close(second.boxes, ANCHORS[3:] * 2)


def test_deltas_move_the_boxes() -> None:
    logits, deltas = background(), torch.zeros(1, 4, 4)
    logits[0, 0, 0] = 3.0
    deltas[0, 0] = torch.tensor([0.5, 0.25, 0.0, 0.0])
    (found,) = run(logits, deltas)
    assert_close(found.boxes, torch.tensor([[8.0, 4, 24, 20]]))


def test_each_image_has_its_own_scale() -> None:
    logits = background(2)
    logits[:, 1, 0] = 1.0
    process = Postprocess(anchors=ANCHORS, config=PostprocessConfig())
    found = process(
        as_one_level(logits), as_one_level(torch.zeros(2, 4, 4)), [target(0.5), target(4.0)]
    )
    assert found[0].boxes.tolist() == [[32, 0, 64, 32]]
    assert found[1].boxes.tolist() == [[4, 0, 8, 4]]


def test_boxes_are_clipped_to_the_original_image_only_where_wanted() -> None:
    logits = background()
    logits[0, 3, 0] = 1.0
    (free,) = run(logits, scale=0.5, size=(40, 50))
    (clipped,) = run(logits, scale=0.5, size=(40, 50), clip_boxes=True)
    assert free.boxes.tolist() == [[32, 32, 64, 64]]
    assert clipped.boxes.tolist() == [[32, 32, 50, 40]]


def test_clipping_drops_boxes_that_lie_in_the_padding() -> None:
    logits = background()
    logits[0, 0, 0], logits[0, 3, 0] = 1.0, 2.0
    assert len(run(logits, size=(16, 32))[0]) == 2
    (found,) = run(logits, size=(16, 32), clip_boxes=True)
    assert found.boxes.tolist() == [[0, 0, 16, 16]]
    assert_close(found.scores, torch.tensor([1.0]).sigmoid())


def test_an_image_below_the_threshold_has_no_detections() -> None:
    (found,) = run(background())
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_scores_must_be_above_the_threshold() -> None:
    logits = background()
    logits[0, 0, 0], logits[0, 1, 0] = 0.0, 1e-3
    assert run(logits, score_threshold=0.5)[0].boxes.tolist() == [[16, 0, 32, 16]]


def test_no_more_than_max_detections_are_returned() -> None:
    logits = torch.zeros(1, 4, 2)
    assert [len(run(logits, max_detections=n)[0]) for n in (1, 3, 8, 100)] == [1, 3, 8, 8]


def test_nan_is_never_detected() -> None:
    logits, deltas = background(2), torch.zeros(2, 4, 4)
    logits[0], logits[1, 0, 0], logits[1, 1, 1] = torch.nan, torch.nan, 1.0
    logits[1, 2, 0], deltas[1, 2, 1] = 3.0, torch.nan
    first, second = run(logits, deltas)
    assert len(first) == 0
    assert second.boxes.tolist() == [[16, 0, 32, 16]]
    assert second.labels.tolist() == [1]


def test_nan_does_not_take_the_place_of_a_candidate() -> None:
    logits = background()
    logits[0, :3, 0], logits[0, 3, 1] = torch.nan, 1.0
    assert run(logits, max_candidates=1)[0].labels.tolist() == [1]


def test_boxes_that_overflow_are_never_detected() -> None:
    logits, deltas = background(), torch.zeros(1, 4, 4)
    logits[0, :2, 0], deltas[0, 0, 2] = 1.0, 1000.0
    assert run(logits, deltas)[0].boxes.tolist() == [[16, 0, 32, 16]]


def test_the_callers_logits_are_left_as_they_are() -> None:
    logits = background(num_classes=3)
    logits[0, 0] = torch.tensor([1.0, torch.nan, 2.0])
    before = logits.clone()
    run(logits, class_map=ClassMap(("cat", None, "dog"), (1, None, 3)))
    assert_close(logits, before, equal_nan=True, rtol=0, atol=0)


def test_unnamed_slots_are_never_predicted() -> None:
    logits = background(num_classes=3)
    logits[0, 0] = torch.tensor([1.0, 5.0, 2.0])
    class_map = ClassMap(("cat", None, "dog"), (1, None, 3))
    assert run(logits, class_map=class_map)[0].labels.tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_give_float32_detections(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 3, generator=generator).to(dtype)
    deltas = (torch.randn(2, 4, 4, generator=generator) * 0.1).to(dtype)
    for half, full in zip(run(logits, deltas), run(logits.float(), deltas.float()), strict=True):
        assert half.boxes.dtype == half.scores.dtype == torch.float32
        assert torch.equal(half.boxes, full.boxes)
        assert torch.equal(half.scores, full.scores)
        assert torch.equal(half.labels, full.labels)


def test_empty_batches_and_models_without_anchors_give_nothing() -> None:
    assert run(background(0)) == []
    process = Postprocess(anchors=torch.zeros(0, 4), config=PostprocessConfig())
    (found,) = process(
        as_one_level(torch.zeros(1, 0, 3)), as_one_level(torch.zeros(1, 0, 4)), [target()]
    )
    assert len(found) == 0


def test_shapes_that_do_not_belong_together_are_named() -> None:
    process = Postprocess(anchors=ANCHORS, config=PostprocessConfig())
    with pytest.raises(ValueError, match=r"cls_logits must be .* \(1, 4\).* got \[1, 5, 2\]"):
        process(as_one_level(torch.zeros(1, 5, 2)), as_one_level(torch.zeros(1, 5, 4)), [target()])
    with pytest.raises(ValueError, match=r"must be"):
        process(as_one_level(torch.zeros(1, 4, 2)), as_one_level(torch.zeros(1, 4, 3)), [target()])
    with pytest.raises(ValueError, match="class map has 3 classes but cls_logits 2"):
        run(torch.zeros(1, 4, 2), class_map=ClassMap(("a", "b", "c"), (1, 2, 3)))


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds() -> None:
    generator = torch.Generator().manual_seed(4)
    top_left = torch.rand(3000, 2, generator=generator) * 400
    anchors = torch.cat(
        [top_left, top_left + 10 + torch.rand(3000, 2, generator=generator) * 90], 1
    )
    logits = torch.randn(3, 3000, 5, generator=generator).half()  # half: many equal logits
    deltas = torch.randn(3, 3000, 4, generator=generator) * 0.1
    for method in ("hard", "linear", "gaussian"):
        process = Postprocess(anchors=anchors, config=PostprocessConfig(nms=method))
        on_cpu = process(as_one_level(logits), as_one_level(deltas), [target()] * 3)
        on_gpu = process(as_one_level(logits.cuda()), as_one_level(deltas.cuda()), [target()] * 3)
        for a, b in zip(on_cpu, on_gpu, strict=True):
            assert b.boxes.is_cuda
            assert_close(b.to("cpu").scores, a.scores, rtol=1e-5, atol=1e-6)
            assert_close(b.to("cpu").boxes, a.boxes, rtol=1e-5, atol=1e-3)
