# SPDX-License-Identifier: Apache-2.0
"""Selection of the best pairs: worked numbers, invariants, kernel against definition."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from effdet.boxes import decode_boxes
from effdet.levels import split_levels
from effdet.ops import select_candidates
from effdet.ops.select_candidates import MAX_LOG_RATIO, Candidates, reference

OP = torch.ops.effdet.select_candidates.default
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
INF, NAN = float("inf"), float("nan")

# Anchors at a location, height and width of each level.
SHAPES = ((3, 5, 7), (3, 3, 4), (3, 1, 1))
LAYOUTS = ("contiguous", "channels_last", "strided", "mixed")


def lay_out(levels: Sequence[Tensor], layout: str) -> list[Tensor]:
    """The same values in another order of the memory."""
    if layout == "strided":
        return [torch.stack([level, -level], -1)[..., 0] for level in levels]
    if layout == "mixed":
        return [x.contiguous(memory_format=torch.channels_last) if i % 2 else x.contiguous()
                for i, x in enumerate(levels)]  # fmt: skip
    return [level.contiguous(memory_format=FORMATS[layout]) for level in levels]


FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def num_anchors(shapes: Sequence[tuple[int, int, int]] = SHAPES) -> int:
    return sum(anchors * height * width for anchors, height, width in shapes)


def example(
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    num_images: int = 2,
    num_classes: int = 5,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat logits ``[B, A, K]``, flat deltas ``[B, A, 4]`` and anchors."""
    generator = torch.Generator().manual_seed(seed)
    count = num_anchors(shapes)
    logits = torch.randn(num_images, count, num_classes, generator=generator) * 3
    deltas = torch.randn(num_images, count, 4, generator=generator) * 0.3
    corner = torch.rand(count, 2, generator=generator) * 100
    anchors = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 50], 1)
    return logits.to(dtype), deltas.to(dtype), anchors


def select(
    logits: Tensor,
    deltas: Tensor | None = None,
    anchors: Tensor | None = None,
    *,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    layout: str = "contiguous",
    **settings: Any,
) -> Candidates:
    """The operator on flat inputs; by default one level of one row and no deltas."""
    shapes = [(1, 1, logits.shape[1])] if shapes is None else shapes
    if deltas is None:
        deltas = logits.new_zeros(*logits.shape[:2], 4)
    if anchors is None:
        anchors = torch.tensor([[0.0, 0, 8, 8]]).expand(logits.shape[1], 4)
    return select_candidates(
        lay_out(split_levels(logits, shapes), layout),
        lay_out(split_levels(deltas, shapes), layout),
        anchors,
        num_classes=logits.shape[2],
        **settings,
    )


def arguments(
    seed: int = 0, layout: str = "contiguous", device: str = "cpu", **changes: Any
) -> tuple[Any, ...]:
    """All arguments of the operator."""
    settings = {"max_candidates": 40, "score_threshold": 0.1, "exclude": [1]}
    inputs = {name: changes.pop(name) for name in ("dtype", "shapes") if name in changes}
    logits, deltas, anchors = (x.to(device) for x in example(seed, **inputs))
    shapes = inputs.get("shapes", SHAPES)
    levels = [lay_out(split_levels(flat, shapes), layout) for flat in (logits, deltas)]
    return *levels, anchors, logits.shape[2], *(settings | changes).values()


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- numbers worked by hand, invariants ---


def test_candidates_are_decoded_and_scored() -> None:
    logits = torch.tensor([[[-9.0, 0.0], [2.0, -9.0], [-9.0, -9.0]]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 1] = torch.tensor([0.5, 0.25, 0.0, 0.6931472])
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 24, 16], [0, 0, 1, 1]])
    found = select(logits, deltas, anchors, max_candidates=4, score_threshold=0.4)
    assert_close(found.scores, torch.tensor([[0.8807971, 0.5, -1, -1]]))
    assert found.labels.tolist() == [[0, 1, 0, 0]]
    assert found.anchors.tolist() == [[1, 0, 0, 0]]
    assert_close(found.boxes[0, :2], torch.tensor([[16.0, -4, 32, 28], [0, 0, 8, 8]]))
    assert not found.boxes[0, 2:].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_candidates_are_the_best_pairs_in_falling_order(layout: str) -> None:
    logits, deltas, anchors = example()
    found = select(logits, deltas, anchors, shapes=SHAPES, layout=layout, max_candidates=50)
    expected = logits.flatten(1).topk(50)
    assert_close(found.scores, expected.values.sigmoid())
    assert torch.equal(found.anchors * 5 + found.labels, expected.indices)
    for image in range(2):
        index = found.anchors[image]
        boxes = decode_boxes(deltas[image, index], anchors[index])
        assert_close(found.boxes[image], boxes)


def test_fewer_pairs_than_wanted_are_all_taken() -> None:
    found = select(torch.randn(2, 3, 4), max_candidates=5000)
    pairs = (found.anchors * 4 + found.labels).sort(1).values
    assert torch.equal(pairs, torch.arange(12).expand(2, 12))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_logits_are_taken_by_lowest_flat_index(dtype: torch.dtype, layout: str) -> None:
    # Whole numbers in -3..3 with both zeros: nearly all of them are equal to many others.
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 4, 6), (2, 3, 2))
    logits = torch.randint(-3, 4, (3, 60, 5), generator=generator).to(dtype)
    logits[:, ::2] *= -1
    for count in (1, 17, 100, 250):
        found = select(logits, shapes=shapes, layout=layout, max_candidates=count)
        order = logits.float().flatten(1).sort(dim=1, descending=True, stable=True).indices
        assert torch.equal(found.anchors * 5 + found.labels, order[:, :count])


def test_excluded_classes_leave_their_places_to_others() -> None:
    logits = torch.tensor([[[9.0, 1.0, 8.0], [7.0, 2.0, 6.0]]])
    found = select(logits, max_candidates=2, exclude=(0, 2))
    assert found.labels.tolist() == [[1, 1]]
    assert found.anchors.tolist() == [[1, 0]]


@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_never_taken_and_infinities_are_the_ends(function: Any, dtype: torch.dtype) -> None:
    logits = torch.tensor([[[NAN, INF, -INF], [-NAN, 1.0, 0.5]]], dtype=dtype)
    levels = split_levels(logits, [(2, 1, 1)]), split_levels(logits.new_zeros(1, 2, 4), [(2, 1, 1)])
    anchors = torch.tensor([[0.0, 0, 8, 8], [0, 0, 4, 4]])
    _, scores, labels, index = function(*levels, anchors, 3, 6, 0.0, [])
    assert_close(scores, torch.tensor([[1.0, 0.7310586, 0.6224593, -1, -1, -1]]))
    assert labels.tolist() == [[1, 1, 2, 0, 0, 0]]
    assert index.tolist() == [[0, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("function", [OP, reference])
def test_a_box_that_is_not_finite_leaves_its_place_unused(function: Any) -> None:
    logits, deltas = torch.tensor([[[4.0], [3.0], [2.0], [1.0]]]), torch.zeros(1, 4, 4)
    deltas[0, 0, 0], deltas[0, 1, 3], deltas[0, 2, 2] = INF, NAN, 1e9
    levels = split_levels(logits, [(1, 2, 2)]), split_levels(deltas, [(1, 2, 2)])
    anchors = torch.tensor([[0.0, 0, 2, 2]]).expand(4, 4)
    boxes, scores, _, index = function(*levels, anchors, 1, 4, 0.0, [])
    assert_close(scores, torch.tensor([[-1, -1, 0.8807971, 0.7310586]]))
    assert index.tolist() == [[0, 0, 2, 3]]
    half = torch.tensor(MAX_LOG_RATIO).exp().item()  # a wild th is cut, not infinite
    expected = torch.tensor([[0.0] * 4, [0.0] * 4, [1 - half, 0, 1 + half, 2], [0, 0, 2, 2]])
    assert_close(boxes[0], expected)


def test_scores_must_be_above_the_threshold() -> None:
    logits = torch.tensor([[[0.0], [1e-3], [-1.0]]])
    found = select(logits, max_candidates=3, score_threshold=0.5)
    assert found.anchors[found.scores > 0].tolist() == [1]


@pytest.mark.parametrize("threshold", [0.0, 1e-7, 0.001, 0.3, 0.5, 0.999, 1 - 1e-7, 1.0])
def test_the_floor_of_the_logits_loses_no_score_above_the_threshold(threshold: float) -> None:
    centre = torch.logit(torch.tensor(threshold).double()).clamp(-105, 20)
    logits = (centre + torch.linspace(-1e-4, 1e-4, 2001)).float().reshape(1, -1, 1)
    found = select(logits, max_candidates=3000, score_threshold=threshold)
    assert int((found.scores > 0).sum()) == int((logits.sigmoid() > threshold).sum())


def test_a_batch_is_its_singles() -> None:
    logits, deltas, anchors = example()
    settings: dict[str, Any] = {"shapes": SHAPES, "max_candidates": 30, "score_threshold": 0.5}
    found = select(logits, deltas, anchors, **settings)
    for i in range(2):
        single = select(logits[i : i + 1], deltas[i : i + 1], anchors, **settings)
        assert all(torch.equal(a[i], b[0]) for a, b in zip(found, single, strict=True))


@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize(
    ("num_images", "shape"), [(0, (2, 3, 4)), (2, (2, 0, 4)), (0, (2, 0, 0)), (1, (0, 3, 3))]
)
def test_empty_input_gives_no_candidates(
    function: Any, num_images: int, shape: tuple[int, int, int]
) -> None:
    anchors, height, width = shape
    size, count = (height, width), min(7, 5 * anchors * height * width)
    logits = torch.zeros(num_images, anchors * 5, *size)
    deltas = torch.zeros(num_images, anchors * 4, *size)
    found = function([logits], [deltas], torch.zeros(anchors * height * width, 4), 5, 7, 0.0, [])
    for values, last in zip(found, ((4,), (), (), ()), strict=True):
        assert values.shape == (num_images, count, *last)


def test_the_callers_logits_are_left_as_they_are() -> None:
    values = arguments()
    values[0][0][0, 0, 0, 0] = NAN
    before = [level.clone() for level in values[0]]
    OP(*values)
    reference(*values)
    for level, expected in zip(values[0], before, strict=True):
        assert_close(level, expected, equal_nan=True, rtol=0, atol=0)


# --- kernel = definition ---


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Equal labels and anchors, nearly equal boxes and scores."""
    assert_close(found[0], expected[0], rtol=1e-5, atol=1e-4)
    assert_close(found[1], expected[1], rtol=1e-5, atol=1e-7)
    assert torch.equal(found[2], expected[2])
    assert torch.equal(found[3], expected[3])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernel_equals_reference(dtype: torch.dtype, layout: str, device: str) -> None:
    for seed in range(8):
        changes = {
            "max_candidates": (1, 9, 100, 5000)[seed % 4],
            "score_threshold": (0.0, 0.5)[seed % 2],
            "exclude": ([], [0, 3], [1, 1])[seed % 3],
        }
        values = arguments(seed, layout, device, dtype=dtype, **changes)
        values[0][0][:, ::3, 1, :2] = (NAN, INF, -INF, 0.0)[seed % 4]
        assert_same(OP(*values), reference(*values))


LARGE = ((3, 64, 60), (3, 32, 30))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal", "few", "clustered"])
def test_large_images_in_any_order_of_values(
    order: str, layout: str, dtype: torch.dtype, device: str
) -> None:
    # Large enough for a sample, for full collections and for a sample that promises too much.
    logits, deltas, anchors = (x.to(device) for x in example(1, dtype, 2, 8, LARGE))
    ranks = torch.linspace(-4, 4, logits[0].numel(), device=device).reshape(logits[0].shape)
    if order in ("rising", "falling"):
        logits[:] = ranks if order == "rising" else ranks.flip(0, 1)
    elif order == "equal":
        logits[:] = 0.25
    elif order == "few":
        logits[:, 100:] = NAN
    elif order == "clustered":
        logits[:] = -20
        logits[:, 5000:5040] = 3
    levels = [lay_out(split_levels(flat, LARGE), layout) for flat in (logits, deltas)]
    for max_candidates, exclude in ((60, []), (1500, [0, 5])):
        values = (*levels, anchors, 8, max_candidates, 0.0, exclude)
        assert_same(OP(*values), reference(*values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_image_whose_sample_promises_too_much(dtype: torch.dtype) -> None:
    # The CPU kernel's sample, drawn as it draws it, sees high logits only; there are too few.
    logits, deltas, anchors = example(4, dtype, 1, 8, LARGE)
    stride = logits.numel() >> 14
    state, position = 1, -1
    for _ in range(600):
        state = (state * 1664525 + 1013904223) % 2**32
        position += 1 + (state >> 8) % (2 * stride - 1)
        logits.view(-1)[position + 1] = 50
    levels = [lay_out(split_levels(flat, LARGE), "channels_last") for flat in (logits, deltas)]
    values = (*levels, anchors, 8, 1500, 0.0, [])
    assert_same(OP(*values), reference(*values))


def test_deltas_of_another_type_than_the_logits() -> None:
    logits, deltas, anchors = example()
    for dtype in DTYPES:
        found = select(logits, deltas.to(dtype), anchors, shapes=SHAPES, max_candidates=60)
        wanted = deltas.to(dtype).float()
        expected = select(logits, wanted, anchors, shapes=SHAPES, max_candidates=60)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("num_images", [1, 3])
def test_same_bits_on_any_number_of_threads(
    layout: str, num_images: int, restored_threads: None
) -> None:
    logits, deltas, anchors = example(2, torch.bfloat16, num_images, 8, LARGE)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(
            select(logits, deltas, anchors, shapes=LARGE, layout=layout, max_candidates=700)
        )
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_the_baseline_instruction_set_passes_the_same_tests() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [
            *command,
            "-m",
            "not slow and not gpu",
            "-k",
            "equals_reference or equal_logits",
            __file__,
        ],
        env=os.environ | {"EFFDET_INSTRUCTION_SET": "baseline"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype, device: str) -> None:
    torch.library.opcheck(OP, arguments(dtype=dtype, device=device))


@pytest.mark.gpu
def test_cuda_needs_no_host_sync() -> None:
    values = arguments(device="cuda", shapes=LARGE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = OP(*values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found[1] > 0).any()


# --- compile, export ---


class Module(torch.nn.Module):
    def forward(self, cls: list[Tensor], box: list[Tensor], anchors: Tensor) -> Candidates:
        return select_candidates(cls, box, anchors, num_classes=5, max_candidates=40)


def test_compiles_as_one_graph() -> None:
    values = arguments()[:3]
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*values), Module()(*values), strict=True):
        assert torch.equal(found, expected)


def test_exports_with_a_dynamic_batch() -> None:
    levels = [{0: torch.export.Dim("batch")}] * len(SHAPES)
    shapes = {"cls": levels, "box": levels, "anchors": None}
    program = torch.export.export(Module(), arguments()[:3], dynamic_shapes=shapes).module()
    logits, deltas, anchors = example(3, num_images=5)
    values = split_levels(logits, SHAPES), split_levels(deltas, SHAPES), anchors
    for found, expected in zip(program(*values), Module()(*values), strict=True):
        assert torch.equal(found, expected)


# --- mistakes ---

GOOD = {
    "cls_logits": [torch.zeros(2, 6, 2, 3)],
    "box_deltas": [torch.zeros(2, 8, 2, 3)],
    "anchors": torch.zeros(12, 4),
    "num_classes": 3,
    "max_candidates": 5,
    "score_threshold": 0.5,
    "exclude": (),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1 .*, got 0"),
        ({"max_candidates": 0}, "max_candidates must be at least 1 .*, got 0"),
        ({"score_threshold": 1.5}, r"score_threshold must be in \[0, 1\], got 1.5"),
        ({"score_threshold": NAN}, "score_threshold must be .*nan"),
        ({"exclude": (0, 3)}, r"exclude must hold classes in \[0, 3\), got 3"),
        ({"anchors": torch.zeros(12, 5)}, r"anchors must be \[A, 4\] float32, got \[12, 5\]"),
        ({"anchors": torch.zeros(12, 4).double()}, "anchors must be .* got .*float64"),
        ({"anchors": torch.zeros(11, 4)}, "anchors must be as many .* 12, got 11"),
        ({"cls_logits": [], "box_deltas": []}, "cls_logits must be a list of levels"),
        ({"box_deltas": []}, "box_deltas must be a list of levels"),
        (
            {"box_deltas": [torch.zeros(2, 8, 2, 3), torch.zeros(2, 8, 2, 3)]},
            "same levels .* got 1 levels of 2 images and 2 of 2",
        ),
        ({"cls_logits": [torch.zeros(2, 7, 2, 3)]}, r"cls_logits .* \* 3, H, W\], got \[2, 7"),
        ({"cls_logits": [torch.zeros(2, 6, 6)]}, r"cls_logits .* got \[2, 6, 6\]"),
        ({"cls_logits": [torch.zeros(2, 6, 2, 3).int()]}, "cls_logits .* got torch.int32"),
        ({"box_deltas": [torch.zeros(3, 8, 2, 3)]}, "same levels .* of 2 images and 1 of 3"),
        ({"box_deltas": [torch.zeros(2, 8, 3, 2)]}, r"\[2, 2, 3\], got \[2, 3, 2\]"),
        ({"box_deltas": [torch.zeros(2, 12, 2, 3)]}, r"\[2, 2, 3\], got \[3, 2, 3\]"),
        (
            {"box_deltas": [torch.zeros(2, 8, 2, 3, device="meta")]},
            "box_deltas must be on the anchors' device cpu, got meta",
        ),
        (
            {
                "cls_logits": [torch.zeros(2, 6, 2, 1), torch.zeros(2, 6, 2, 2).half()],
                "box_deltas": [torch.zeros(2, 8, 2, 1), torch.zeros(2, 8, 2, 2)],
            },
            "cls_logits must have one dtype .* torch.float16 on cpu at level 1",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_candidates(**(GOOD | change))


def test_more_pairs_than_can_be_counted_are_refused() -> None:
    classes = 2**31
    logits = torch.zeros(1, 1, 1, 1).expand(1, 2 * classes, 1, 1)
    with pytest.raises(ValueError, match="at most 4294967295 values an image, got 4294967296"):
        select_candidates(
            [logits], [torch.zeros(1, 8, 1, 1)], torch.zeros(2, 4), num_classes=classes,
            max_candidates=1,
        )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"anchors": torch.zeros(11, 4)},
        {"anchors": torch.zeros(12, 4).double()},
        {"cls_logits": [torch.zeros(2, 9, 2, 3)]},
        {"box_deltas": [torch.zeros(1, 8, 2, 3)]},
        {"box_deltas": []},
        {"num_classes": 0},
        {"exclude": [3]},
        {"exclude": [-1]},
    ],
)
def test_the_kernel_refuses_what_would_be_read_out_of_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError):
        OP(*(GOOD | change).values())
