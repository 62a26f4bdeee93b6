# SPDX-License-Identifier: Apache-2.0
"""Target assignment: worked numbers, ties, crowds, and kernel against definition to the bit."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from effdet.anchors import build_anchors
from effdet.config import model_config
from effdet.ops import AnchorAssignment, assign_anchors
from effdet.ops.assign import reference
from effdet.structures import BACKGROUND, IGNORE

OP = torch.ops.effdet.assign_anchors.default
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
NAN, INF = float("nan"), float("inf")

SQUARES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
"""Four anchors that do not touch."""
ANCHORS = build_anchors(model_config("efficientdet_d0", image_size=(128, 128)))


def assign(
    anchors: Tensor, boxes: list[list[float]], labels: list[int] | None = None, **settings: float
) -> AnchorAssignment:
    """The assignment of one image; all boxes are of class 0 where nothing is said."""
    given = torch.tensor(labels or [0] * len(boxes)).long()
    return assign_anchors(anchors, torch.tensor(boxes).view(1, -1, 4), given[None], **settings)


def match(boxes: list[list[float]], labels: list[int] | None = None) -> list[int]:
    return assign(SQUARES, boxes, labels).matched[0].tolist()


def random_boxes(generator: torch.Generator, shape: tuple[int, ...], size: float) -> Tensor:
    """Boxes of all scales in and around an image of ``size`` pixels."""
    centres = torch.rand(*shape, 2, generator=generator) * 1.2 * size - 0.1 * size
    scales = torch.rand(*shape, 1, generator=generator) * 6 - 5
    aspects = torch.randn(*shape, 2, generator=generator) / 2
    half = size * torch.exp(scales + aspects) / 2
    return torch.cat([centres - half, centres + half], -1)


def random_labels(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """A tenth each of padding and crowds."""
    kind = torch.rand(shape, generator=generator)
    labels = torch.randint(0, 90, shape, generator=generator)
    return labels.masked_fill(kind < 0.1, BACKGROUND).masked_fill(kind > 0.9, IGNORE)


def check_against_reference(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    foreground_iou: float = 0.5,
    crowd_overlap: float = 0.5,
    device: str = "cpu",
) -> None:
    """Asserts that the operator on a device equals the definition, which runs on the CPU."""
    expected = reference(anchors, boxes, labels, foreground_iou, crowd_overlap)
    on_device = (tensor.to(device) for tensor in (anchors, boxes, labels))
    found = OP(*on_device, foreground_iou, crowd_overlap)
    for name, a, b in zip(AnchorAssignment._fields, found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.cpu(), b), (name, (a.cpu() != b).nonzero().tolist()[:5])


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- numbers worked by hand ---


def test_an_overlap_of_one_half_matches_and_less_does_not() -> None:
    # The first box takes anchor 1 by force; anchor 0 overlaps it by exactly 1/2, anchor 2
    # the second box by 0.4.
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [40, 0, 50, 10], [40, 0, 50, 4]])
    boxes = [[0.0, 0, 10, 5], [40.0, 0, 50, 4]]
    assert assign(anchors, boxes).matched.tolist() == [[0, 0, BACKGROUND, 1]]
    assert match([[0.0, 0, 10, 10]]) == [0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_the_threshold_is_a_setting() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2], [20, 0, 30, 10]])
    for threshold, expected in (
        (0.5, [0, 0, -1, -1]),
        (0.51, [0, -1, -1, -1]),
        (0.2, [0, 0, 0, -1]),
        (0.0, [0, 0, 0, -1]),  # what does not overlap is background at any threshold
        (1.0, [0, -1, -1, -1]),
    ):
        found = assign(anchors, [[0.0, 0, 10, 10]], foreground_iou=threshold)
        assert found.matched.tolist() == [expected], threshold


def test_every_box_takes_its_best_anchor_however_little_they_overlap() -> None:
    assert match([[29.0, 9, 35, 19]]) == [BACKGROUND, 0, BACKGROUND, BACKGROUND]


def test_a_box_that_touches_no_anchor_takes_the_first() -> None:
    assert match([[200.0, 200, 210, 210]]) == [0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_of_equally_good_anchors_the_first_is_forced() -> None:
    assert match([[15.0, 0, 35, 5], [5, 5, 25, 9]])[:2] == [1, 0]
    assert match([[8.0, 0, 22, 10]]) == [0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_of_boxes_that_force_one_anchor_the_lowest_index_wins() -> None:
    # Both want anchor 1; the second overlaps it more.
    assert match([[20.0, 0, 23, 10], [20, 0, 30, 9]]) == [BACKGROUND, 0, BACKGROUND, BACKGROUND]
    assert match([[20.0, 0, 30, 9], [20, 0, 23, 10]]) == [BACKGROUND, 0, BACKGROUND, BACKGROUND]


def test_of_equally_good_boxes_an_anchor_takes_the_first() -> None:
    assert match([[0.0, 0, 10, 8], [0, 0, 10, 8]]) == [0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_a_crowd_matches_nothing_even_by_force() -> None:
    assert match([[0.0, 0, 10, 10]], [IGNORE]) == [IGNORE] + [BACKGROUND] * 3
    assert match([[0.0, 0, 10, 4], [20, 0, 30, 10]], [IGNORE, 0]) == [
        BACKGROUND, 1, BACKGROUND, BACKGROUND,
    ]  # fmt: skip
    # A better fitting crowd does not take the anchor from the object.
    assert match([[0.0, 0, 10, 10], [0, 0, 10, 6]], [IGNORE, 0])[0] == 1


def test_padding_matches_nothing_wherever_it_lies() -> None:
    rows = [[0.0, 0, 10, 10], [NAN, NAN, NAN, NAN], [20, 0, 30, 10]]
    found = assign(SQUARES, rows, [BACKGROUND, BACKGROUND, 7])
    assert found.matched.tolist() == [[BACKGROUND, 2, BACKGROUND, BACKGROUND]]
    assert found.cls_targets.tolist() == [[BACKGROUND, 7, BACKGROUND, BACKGROUND]]


def test_background_mostly_on_a_crowd_is_ignored_and_objects_there_are_not() -> None:
    rows = [[0.0, 0, 25, 10], [0, 0, 10, 10], [44, 0, 70, 10]]
    found = assign(SQUARES, rows, [IGNORE, 3, IGNORE])
    # Anchor 0 has its object, 1 lies half on the first crowd, 2 to 0.6 and 3 wholly on the other.
    assert found.matched.tolist() == [[1, IGNORE, IGNORE, IGNORE]]
    assert found.cls_targets.tolist() == [[3, IGNORE, IGNORE, IGNORE]]
    assert found.num_foreground.item() == 1
    found = assign(SQUARES, [[0.0, 0, 24, 10], [46, 0, 64, 10]], [IGNORE, IGNORE])
    assert found.cls_targets.tolist() == [[IGNORE, BACKGROUND, BACKGROUND, BACKGROUND]]


def test_the_crowd_overlap_is_a_setting() -> None:
    crowd = [[0.0, 0, 10, 10], [20, 0, 24, 10], [40, 0, 41, 10]]
    for overlap, ignored in ((1.0, 1), (0.4, 2), (0.1, 3), (0.0, 3)):
        found = assign(SQUARES, crowd, [IGNORE] * 3, crowd_overlap=overlap)
        assert found.matched.tolist() == [[IGNORE] * ignored + [BACKGROUND] * (4 - ignored)]


def test_two_crowds_do_not_add_up() -> None:
    halves = [[0.0, 0, 4, 10], [4, 0, 8, 10]]
    assert match(halves, [IGNORE, IGNORE])[0] == BACKGROUND


def test_labels_are_copied_as_they_are() -> None:
    found = assign(SQUARES, SQUARES.tolist(), [5, 123456, 0, 2**31 - 1])
    assert found.cls_targets.tolist() == [[5, 123456, 0, 2**31 - 1]]
    assert found.num_foreground.item() == 4


def test_dtypes_and_shapes() -> None:
    found = assign_anchors(ANCHORS, torch.zeros(3, 2, 4), torch.zeros(3, 2, dtype=torch.long))
    assert found.matched.shape == found.cls_targets.shape == (3, len(ANCHORS))
    assert found.matched.dtype == found.cls_targets.dtype == torch.int32
    assert found.num_foreground.dtype == torch.float32
    assert found.num_foreground.shape == ()


# --- kernel = definition, to the bit ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(40))
def test_random_sets_equal_the_reference(seed: int, device: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_boxes = int(torch.randint(1, 60, (), generator=generator))
    boxes = random_boxes(generator, (5, num_boxes), 128.0)
    labels = random_labels(generator, (5, num_boxes))
    for foreground_iou, crowd_overlap in ((0.5, 0.5), (0.05, 0.9), (0.0, 0.0), (0.8, 0.2)):
        check_against_reference(ANCHORS, boxes, labels, foreground_iou, crowd_overlap, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_anchors", [1, 2, 7, 63, 64, 65, 127, 128, 129, 1000])
def test_any_anchors_in_any_order_equal_the_reference(num_anchors: int, device: str) -> None:
    generator = torch.Generator().manual_seed(num_anchors)
    for _ in range(8):
        anchors = random_boxes(generator, (num_anchors,), 100.0)
        boxes = random_boxes(generator, (3, 9), 100.0)
        check_against_reference(anchors, boxes, random_labels(generator, (3, 9)), 0.3, 0.5, device)


@pytest.mark.parametrize("device", DEVICES)
def test_grids_of_equal_overlaps_equal_the_reference(device: str) -> None:
    """Whole numbers of few kinds: most IoUs occur many times, and every anchor twice."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        corners = torch.randint(0, 12, (3, 20, 2), generator=generator).float() * 8
        sizes = 8.0 * torch.randint(1, 4, (3, 20, 2), generator=generator)
        boxes = torch.cat([corners, corners + sizes], -1)
        grid = torch.cartesian_prod(*[torch.arange(0.0, 96, 8)] * 2)
        anchors = torch.cat(
            [torch.cat([grid, grid + 16], 1)] * 2 + [torch.cat([grid, grid + 8], 1)]
        )
        check_against_reference(
            anchors, boxes, random_labels(generator, (3, 20)), 0.25, 0.25, device
        )


def test_identical_boxes_and_anchors_go_to_the_first() -> None:
    anchors = torch.tensor([[8.0, 8, 24, 24]]).repeat(700, 1)
    boxes = anchors[:50][None]
    found = assign_anchors(anchors, boxes, torch.arange(50)[None])
    assert not found.matched.any()
    check_against_reference(anchors, boxes, torch.arange(50)[None])


ODD = {
    "outside": [[-500.0, -500, -400, -400], [1000, 1000, 1100, 1100], [-1e3, -1e3, 1e3, 1e3]],
    "no area": [[5.0, 5, 5, 5], [5, 5, 50, 5], [5, 5, 5, 50], [0, 0, 0, 0]],
    "inverted": [[50.0, 50, 10, 10], [50, 10, 10, 50], [10, 50, 50, 10]],
    "nan": [[NAN, 0, 50, 50], [0, NAN, 50, 50], [0, 0, NAN, 50], [0, 0, 50, NAN], [NAN] * 4],
    "infinite": [
        [-INF, -INF, INF, INF], [0, 0, INF, INF], [0, 0, INF, 50], [-INF, 0, 50, 50],
        [INF, INF, INF, INF], [0, 0, INF, 0], [INF, 0, -INF, 50], [NAN, 0, INF, 5],
    ],
    "huge": [
        [0.0, 0, 1e30, 1e30], [-1e38, -1e38, 1e38, 1e38], [3e38, 3e38, 3.1e38, 3.1e38],
        [0, 0, 3e38, 1e-38], [1e9, 1e9, 1e9 + 64, 1e9 + 64],
    ],
    "tiny": [[0.0, 0, 1e-30, 1e-30], [0, 0, 1e-22, 1e-22], [0, 0, 1e-44, 1e-44]],
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_crowd", [False, True])
@pytest.mark.parametrize("kind", ODD)
def test_odd_boxes_equal_the_reference(kind: str, as_crowd: bool, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    odd = torch.tensor(ODD[kind])
    boxes = torch.cat([odd, random_boxes(generator, (5,), 128.0)]).expand(2, -1, -1)
    labels = torch.arange(boxes.shape[1]).repeat(2, 1)
    labels[1, : len(odd) : 2] = IGNORE
    if as_crowd:
        labels[0, : len(odd)] = IGNORE
    for settings in ((0.5, 0.5), (0.0, 0.0)):
        check_against_reference(ANCHORS, boxes, labels, *settings, device)


@pytest.mark.parametrize("device", DEVICES)
def test_odd_anchors_equal_the_reference(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    odd = torch.tensor([box for boxes in ODD.values() for box in boxes])
    everything = torch.cat([odd, random_boxes(generator, (300,), 128.0)])
    boxes = everything[:60].expand(3, -1, -1)
    labels = torch.stack([torch.arange(60), torch.full((60,), IGNORE), torch.arange(60) % 3 - 2])
    for _ in range(20):
        anchors = everything[torch.randperm(len(everything), generator=generator)]
        for settings in ((0.5, 0.5), (0.0, 0.0)):
            check_against_reference(anchors, boxes, labels, *settings, device)


@pytest.mark.parametrize("device", DEVICES)
def test_tiny_overlaps_equal_the_reference(device: str) -> None:
    """Where areas and IoUs are subnormal numbers, no bound may leave out the best anchor."""
    generator = torch.Generator().manual_seed(0)
    for exponent in (-10, -18, -19, -20, -22):
        scale = 10.0**exponent
        anchors = random_boxes(generator, (700,), 100.0) * scale
        boxes = random_boxes(generator, (4, 10), 100.0) * scale
        boxes[2:, :, 2] = 1e19
        labels = torch.arange(10).repeat(4, 1)
        for foreground_iou in (0.5, 0.0):
            check_against_reference(anchors, boxes, labels, foreground_iou, 0.5, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("images", "boxes", "anchors"), [(0, 3, 9), (2, 0, 9), (2, 3, 0)])
def test_empty_inputs(images: int, boxes: int, anchors: int, device: str) -> None:
    labels = torch.zeros(images, boxes, dtype=torch.int64)
    check_against_reference(
        torch.rand(anchors, 4), torch.rand(images, boxes, 4), labels, device=device
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("label", [BACKGROUND, IGNORE])
def test_all_padding_and_all_crowd(label: int, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, (2, 200), 128.0)
    labels = torch.full((2, 200), label)
    check_against_reference(ANCHORS, boxes, labels, device=device)
    found = assign_anchors(ANCHORS, boxes, labels)
    assert found.num_foreground.item() == 0
    assert (found.matched == IGNORE).any() == (label == IGNORE)


def test_strided_inputs_equal_contiguous_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, boxes = ANCHORS, random_boxes(generator, (4, 30), 128.0)
    labels = random_labels(generator, (4, 30))
    expected = OP(anchors, boxes, labels, 0.5, 0.5)
    strided = (
        torch.stack([anchors, anchors], -1)[..., 0],
        boxes.transpose(0, 2).contiguous().transpose(0, 2),
        labels.T.contiguous().T,
    )
    found = OP(*strided, 0.5, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_batch_is_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, labels = random_boxes(generator, (4, 12), 128.0), random_labels(generator, (4, 12))
    batch = assign_anchors(ANCHORS, boxes, labels)
    singles = [assign_anchors(ANCHORS, b[None], c[None]) for b, c in zip(boxes, labels)]
    assert torch.equal(batch.matched, torch.cat([single.matched for single in singles]))
    assert torch.equal(batch.cls_targets, torch.cat([single.cls_targets for single in singles]))
    assert batch.num_foreground == sum(single.num_foreground for single in singles)
    assert batch.num_foreground == (batch.matched >= 0).sum()


def test_same_result_on_any_number_of_threads(restored_threads: None) -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = build_anchors(model_config("efficientdet_d0"))
    boxes, labels = random_boxes(generator, (5, 20), 512.0), random_labels(generator, (5, 20))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(OP(anchors, boxes, labels, 0.5, 0.5))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_every_instruction_set_equals_the_reference() -> None:
    """The choice is made once a process, hence processes of their own."""
    program = (
        "from tests.ops.test_assign import *\n"
        "generator = torch.Generator().manual_seed(1)\n"
        "boxes = random_boxes(generator, (4, 40), 128.0)\n"
        "check_against_reference(ANCHORS, boxes, random_labels(generator, (4, 40)))\n"
        "test_odd_anchors_equal_the_reference('cpu')\n"
    )
    for instruction_set in ("baseline", "avx2"):
        environment = os.environ | {"EFFDET_INSTRUCTION_SET": instruction_set}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.gpu
def test_cuda_waits_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, (4, 20), 128.0).cuda()
    labels = random_labels(generator, (4, 20)).cuda()
    anchors = ANCHORS.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assign_anchors(anchors, boxes, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- dispatcher, compile, export ---


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, labels = random_boxes(generator, (2, 6), 128.0), random_labels(generator, (2, 6))
    for rows in (6, 0):
        arguments = (ANCHORS[:300], boxes[:, :rows], labels[:, :rows])
        torch.library.opcheck(OP, (*(x.to(device) for x in arguments), 0.5, 0.5))


def test_compiles_as_one_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, labels = random_boxes(generator, (2, 6), 128.0), random_labels(generator, (2, 6))
    compiled = torch.compile(assign_anchors, fullgraph=True, backend="aot_eager")
    found, expected = compiled(ANCHORS, boxes, labels), assign_anchors(ANCHORS, boxes, labels)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_exports_with_a_dynamic_number_of_boxes() -> None:
    class Assign(torch.nn.Module):
        def forward(self, boxes: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            return tuple(assign_anchors(ANCHORS, boxes, labels))

    generator = torch.Generator().manual_seed(0)
    boxes, labels = random_boxes(generator, (2, 9), 128.0), random_labels(generator, (2, 9))
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        Assign(),
        (boxes[:, :5].clone(), labels[:, :5].clone()),
        dynamic_shapes={"boxes": {1: rows}, "labels": {1: rows}},
    )
    found, expected = program.module()(boxes, labels), assign_anchors(ANCHORS, boxes, labels)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- mistakes ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"foreground_iou": 1.5}, "foreground_iou must be in .*1.5"),
        ({"foreground_iou": NAN}, "foreground_iou must be in .*nan"),
        ({"crowd_overlap": -0.1}, "crowd_overlap must be in .*-0.1"),
        ({"anchors": torch.zeros(5, 5)}, r"anchors must be \[A, 4\], got \[5, 5\]"),
        ({"anchors": torch.zeros(5, 4).double()}, "anchors must be float32, got torch.float64"),
        ({"boxes": torch.zeros(3, 4)}, r"boxes must be \[B, M, 4\], got \[3, 4\]"),
        ({"boxes": torch.zeros(2, 3, 4).half()}, "boxes must be float32, got torch.float16"),
        ({"boxes": torch.zeros(2, 3, 4, device="meta")}, "boxes must be on .*cpu, got meta"),
        ({"labels": torch.zeros(2, 4).long()}, r"labels must be .*\[2, 3\], got \[2, 4\]"),
        ({"labels": torch.full((2, 3), -3)}, "labels must be at least 0, .* got -3"),
        ({"labels": torch.zeros(2, 3)}, "labels must be int64, got torch.float32"),
        ({"labels": torch.zeros(2, 3, device="meta").long()}, "labels must be on .*cpu, got meta"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    values = {
        "anchors": torch.zeros(5, 4),
        "boxes": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, 3, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=message):
        assign_anchors(**(values | change))


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(5, 3), torch.zeros(2, 3, 4), torch.zeros(2, 3).long()),
        (torch.zeros(5, 4).double(), torch.zeros(2, 3, 4), torch.zeros(2, 3).long()),
        (torch.zeros(5, 4), torch.zeros(2, 3, 5), torch.zeros(2, 3).long()),
        (torch.zeros(5, 4), torch.zeros(2, 3, 4), torch.zeros(2, 4).long()),
        (torch.zeros(5, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3).int()),
    ],
)
def test_the_operator_itself_refuses_what_it_would_misread(arguments: tuple[Tensor, ...]) -> None:
    with pytest.raises(RuntimeError):
        OP(*arguments, 0.5, 0.5)
