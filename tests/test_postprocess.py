# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet.levels import as_one_level
from effdet.ops.select_candidates import MAX_LOG_RATIO
from effdet.postprocess import BatchDetections, Postprocess
from effdet.settings import PostprocessConfig
from effdet.structures import ClassMap, Detections, Target


def target(scale: float = 1.0, size: tuple[int, int] = (64, 64)) -> Target:
    return Target(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        crowd=torch.zeros(0, dtype=torch.bool),
        image_id=1,
        scale=scale,
        size=size,
    )


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
    targets = [target(scale, size)] * len(cls_logits)
    return process(as_one_level(cls_logits), as_one_level(deltas), targets)


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
    deltas = torch.zeros(2, 4, 4)
    found = process(as_one_level(logits), as_one_level(deltas), [target(0.5), target(4.0)])
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


def test_boxes_that_are_not_finite_are_never_detected() -> None:
    logits, deltas = background(), torch.zeros(1, 4, 4)
    logits[0, :2, 0], deltas[0, 0, 0] = 1.0, torch.inf
    assert run(logits, deltas)[0].boxes.tolist() == [[16, 0, 32, 16]]


def test_a_wild_size_is_cut_before_it_overflows() -> None:
    logits, deltas = background(), torch.zeros(1, 4, 4)
    logits[0, 0, 0], deltas[0, 0, 2] = 1.0, 1000.0
    half = 8 * torch.tensor(MAX_LOG_RATIO).exp()
    assert_close(run(logits, deltas)[0].boxes, torch.tensor([[8 - half, 0, 8 + half, 16]]))
    assert run(logits, deltas, clip_boxes=True)[0].boxes.tolist() == [[0, 0, 64, 16]]


def test_detections_need_no_gradient() -> None:
    logits = background().requires_grad_()
    (found,) = run(logits, score_threshold=0.0)
    assert len(found) > 0
    assert not found.scores.requires_grad
    assert not found.boxes.requires_grad


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
    (found,) = process([torch.zeros(1, 3, 0, 2)], [torch.zeros(1, 4, 0, 2)], [target()])
    assert len(found) == 0


def test_shapes_that_do_not_belong_together_are_named() -> None:
    process = Postprocess(anchors=ANCHORS, config=PostprocessConfig())
    logits, deltas = torch.zeros(1, 2, 4, 1), torch.zeros(1, 4, 4, 1)
    with pytest.raises(ValueError, match="at least one level"):
        process([], [], [target()])
    with pytest.raises(ValueError, match=r"box_deltas\[0\] must be .* got \[1, 3, 4, 1\]"):
        process([logits], [deltas[:, :3]], [target()])
    with pytest.raises(ValueError, match=r"cls_logits\[0\] must be \[B, 2 \* classes, H, W\]"):
        process([logits[:, :1]], [deltas.repeat(1, 2, 1, 1)], [target()])
    with pytest.raises(ValueError, match=r"cls_logits\[0\] must be .* got \[1, 2, 4\]"):
        process([logits[..., 0]], [deltas], [target()])
    with pytest.raises(ValueError, match=r"1 images, but there are scales \(or targets\) \[2\]"):
        process([logits], [deltas], [target()] * 2)
    with pytest.raises(ValueError, match=r"anchors must be as many .* 3, got 4"):
        process([logits[:, :, :3]], [deltas[:, :, :3]], [target()])
    with pytest.raises(ValueError, match="class map has 3 classes but cls_logits 2"):
        run(torch.zeros(1, 4, 2), class_map=ClassMap(("a", "b", "c"), (1, 2, 3)))


def test_a_limit_per_class_leaves_room_for_others() -> None:
    logits = background()
    logits[0, :, 0], logits[0, 0, 1] = torch.tensor([5.0, 4, 3, 2]), 1.0
    assert run(logits, max_per_class=2)[0].labels.tolist() == [0, 0, 1]


def test_class_agnostic_suppression_keeps_one_box_of_two_classes() -> None:
    logits = background()
    logits[0, 0] = torch.tensor([2.0, 3.0])
    assert run(logits, nms="hard")[0].labels.tolist() == [1, 0]
    assert run(logits, nms="hard", class_agnostic=True)[0].labels.tolist() == [1]


def a_scene(num_images: int, seed: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, deltas, scales and sizes of images whose boxes partly lie in the padding."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, 4, 3, generator=generator)
    deltas = torch.randn(num_images, 4, 4, generator=generator)
    sizes = torch.randint(8, 40, (num_images, 2), generator=generator)
    return logits, deltas, 0.5 + torch.rand(num_images, generator=generator), sizes


class Module(torch.nn.Module):
    """Post-processing as a part of an exported model."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchors", ANCHORS)

    def forward(
        self, logits: list[Tensor], deltas: list[Tensor], scales: Tensor, sizes: Tensor
    ) -> BatchDetections:
        config = PostprocessConfig(clip_boxes=True, score_threshold=0.2)
        class_map = ClassMap(("cat", None, "dog"), (1, None, 3))
        process = Postprocess(anchors=self.anchors, config=config, class_map=class_map)
        return process.detect(logits, deltas, scales, sizes)


def test_detect_gives_fixed_shapes_with_counts() -> None:
    logits, deltas, scales, sizes = a_scene(6)
    found = Module()(as_one_level(logits), as_one_level(deltas), scales, sizes)
    assert (found.boxes.shape, found.scores.shape) == ((6, 12, 4), (6, 12))
    assert (found.labels.shape, found.counts.shape) == ((6, 12), (6,))
    assert len(found.counts.unique()) > 1
    for i, count in enumerate(found.counts.tolist()):
        lists = run(
            logits[i : i + 1],
            deltas[i : i + 1],
            scale=float(scales[i]),
            size=tuple(sizes[i].tolist()),
            clip_boxes=True,
            score_threshold=0.2,
            class_map=ClassMap(("cat", None, "dog"), (1, None, 3)),
        )
        assert torch.equal(found.boxes[i, :count], lists[0].boxes)
        assert torch.equal(found.scores[i, :count], lists[0].scores)
        assert torch.equal(found.labels[i, :count], lists[0].labels)
        assert not found.boxes[i, count:].any()
        assert (found.scores[i, count:] == -1).all()
        assert not found.labels[i, count:].any()


def test_detect_compiles_as_one_graph() -> None:
    logits, deltas, scales, sizes = a_scene(3)
    values = as_one_level(logits), as_one_level(deltas), scales, sizes
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*values), Module()(*values), strict=True):
        assert torch.equal(found, expected)


def test_detect_exports_with_a_dynamic_batch() -> None:
    def values(num_images: int, seed: int) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        logits, deltas, scales, sizes = a_scene(num_images, seed)
        return as_one_level(logits), as_one_level(deltas), scales, sizes

    batch = {0: torch.export.Dim("batch")}
    shapes = {"logits": [batch], "deltas": [batch], "scales": batch, "sizes": batch}
    program = torch.export.export(Module(), values(3, 5), dynamic_shapes=shapes).module()
    for num_images in (1, 7):
        given = values(num_images, 6)
        for found, expected in zip(program(*given), Module()(*given), strict=True):
            assert torch.equal(found, expected)


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
        levels = as_one_level(logits), as_one_level(deltas)
        on_cpu = process(*levels, [target()] * 3)
        on_gpu = process(*([part.cuda() for part in level] for level in levels), [target()] * 3)
        for a, b in zip(on_cpu, on_gpu, strict=True):
            assert b.boxes.is_cuda
            assert_close(b.to("cpu").scores, a.scores, rtol=1e-5, atol=1e-6)
            assert_close(b.to("cpu").boxes, a.boxes, rtol=1e-5, atol=1e-3)


@pytest.mark.gpu
def test_detect_waits_for_no_gpu() -> None:
    logits, deltas, scales, sizes = a_scene(4)
    levels = [[part.cuda() for part in as_one_level(flat)] for flat in (logits, deltas)]
    module, scales, sizes = Module().cuda(), scales.cuda(), sizes.cuda()
    expected = module(*levels, scales, sizes)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = module(*levels, scales, sizes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
