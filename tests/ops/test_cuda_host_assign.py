# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of assign_anchors, run on the CPU, against the definition of the operator."""

import ctypes

import pytest
import torch
from torch import Tensor

from effdet.ops.assign import reference
from effdet.structures import BACKGROUND, IGNORE
from tests.cuda_shim import Library, build

SOURCE = r"""
#include "assign.cuh"
#include "launcher.h"

extern "C" void assign(const void* anchors, const void* boxes, const int64_t* labels,
                       int* matched, int* cls_targets, float* num_foreground,
                       unsigned long long* workspace, int num_images, int num_anchors,
                       int num_boxes, float foreground_iou, float crowd_overlap) {
  effdet::AssignArguments args{};
  args.anchors = static_cast<const effdet::Box*>(anchors);
  args.boxes = static_cast<const effdet::Box*>(boxes);
  args.labels = labels;
  args.matched = matched;
  args.cls_targets = cls_targets;
  args.num_foreground = num_foreground;
  args.num_images = num_images;
  args.num_anchors = num_anchors;
  args.num_boxes = num_boxes;
  args.foreground_iou = foreground_iou;
  args.crowd_overlap = crowd_overlap;
  effdet::launch_assignment(cuda_shim::Launcher{}, args, workspace);
}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("assign"))


def assign(
    kernels: Library,
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    foreground_iou: float = 0.5,
    crowd_overlap: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernels' results on tensors of the CPU."""
    (num_images, num_boxes), num_anchors = labels.shape, anchors.shape[0]
    matched = torch.full((num_images, num_anchors), 77, dtype=torch.int32)
    cls_targets, count = matched.clone(), torch.tensor(-1.0)
    workspace = torch.zeros(num_images * num_boxes + 2, dtype=torch.int64)
    tensors = (anchors, boxes, labels, matched, cls_targets, count, workspace)
    kernels.call(
        "assign",
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *map(ctypes.c_int, (num_images, num_anchors, num_boxes)),
        ctypes.c_float(foreground_iou),
        ctypes.c_float(crowd_overlap),
    )
    return matched, cls_targets, count


def check(kernels: Library, anchors: Tensor, boxes: Tensor, labels: Tensor, *settings: float):
    for seed in (0, 1, 5):
        kernels.schedule(seed)
        found = assign(kernels, anchors, boxes, labels, *settings)
        expected = reference(anchors, boxes, labels, *(settings or (0.5, 0.5)))
        for actual, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


def random_boxes(generator: torch.Generator, *shape: int, size: float = 64.0) -> Tensor:
    corners = torch.rand(*shape, 2, generator=generator) * size
    return torch.cat([corners, corners + torch.rand(*shape, 2, generator=generator) * size], -1)


def grid_boxes(generator: torch.Generator, *shape: int) -> Tensor:
    """Boxes with few distinct coordinates: many equal overlaps, some without area."""
    corners = torch.randint(0, 4, (*shape, 2), generator=generator)
    sizes = torch.randint(0, 3, (*shape, 2), generator=generator)
    return torch.cat([corners, corners + sizes], -1) * 8.0


def random_labels(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(-2, 6, shape, generator=generator)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [random_boxes, grid_boxes])
def test_random_boxes_with_crowds_and_padding(kernels: Library, make, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors = make(generator, [1, 31, 257, 600][seed])
    boxes = make(generator, 3, [7, 3, 1, 12][seed])
    check(kernels, anchors, boxes, random_labels(generator, *boxes.shape[:2]))


@pytest.mark.parametrize("settings", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.7)])
def test_thresholds(kernels: Library, settings: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(9)
    anchors, boxes = grid_boxes(generator, 300), grid_boxes(generator, 2, 9)
    boxes[0, 0] = anchors[5]
    check(kernels, anchors, boxes, random_labels(generator, 2, 9), *settings)


def test_more_boxes_than_shared_memory_holds(kernels: Library) -> None:
    generator = torch.Generator().manual_seed(1)
    anchors, boxes = grid_boxes(generator, 270), grid_boxes(generator, 1, 300)
    check(kernels, anchors, boxes, random_labels(generator, 1, 300))


def test_of_boxes_that_force_one_anchor_the_first_wins(kernels: Library) -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    small = torch.tensor([[101.0, 101, 102, 102], [103, 103, 104, 104], [0, 0, 0, 0]])
    labels = torch.tensor([[4, 5, 6]])
    matched, cls_targets, count = assign(kernels, anchors, small[None], labels)
    assert matched.tolist() == [[2, 0]]  # the box without overlap takes anchor 0
    assert cls_targets.tolist() == [[6, 4]]
    assert count.item() == 2


def test_crowds_and_padding_force_nothing(kernels: Library) -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[[0.0, 0, 10, 5], [20, 20, 30, 30]]])
    matched, cls_targets, count = assign(
        kernels, anchors, boxes, torch.tensor([[IGNORE, BACKGROUND]])
    )
    assert matched.tolist() == cls_targets.tolist() == [[IGNORE, BACKGROUND]]
    assert count.item() == 0


def test_no_boxes(kernels: Library) -> None:
    anchors = torch.rand(40, 4)
    check(kernels, anchors, torch.empty(3, 0, 4), torch.empty(3, 0, dtype=torch.int64))


def test_labels_are_not_looked_at(kernels: Library) -> None:
    generator = torch.Generator().manual_seed(2)
    anchors, boxes = random_boxes(generator, 50), random_boxes(generator, 1, 4)
    check(kernels, anchors, boxes, torch.tensor([[2**31 - 1, -3, 7, 0]]))


def test_bad_coordinates(kernels: Library) -> None:
    nan, inf = float("nan"), float("inf")
    generator = torch.Generator().manual_seed(3)
    anchors = random_boxes(generator, 100)
    bad = [
        *([nan, 0, 50, 50], [0, 0, nan, 50], [-inf, -inf, inf, inf], [0, 0, inf, 50]),
        *([inf, inf, inf, inf], [50, 50, 0, 0], [-1e38, -1e38, 1e38, 1e38], [9, 9, 9, 9]),
    ]
    boxes = torch.tensor(bad).repeat(1, 2, 1)
    for labels in ([1, 2, 3, 4, 5, 6, 7, 8], [IGNORE] * 8, [IGNORE] * 2 + [BACKGROUND] * 6):
        check(kernels, anchors, boxes, torch.tensor([labels * 2]))
