# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernel of nms, run on the CPU, against the definition of the operator."""

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from effdet.ops.nms import reference
from tests.cuda_shim import Library, build

SOURCE = r"""
#include "launcher.h"
#include "nms.cuh"

extern "C" void nms(const void* boxes, const float* scores, const int64_t* labels, int64_t* picks,
                    float* pick_scores, int64_t* counts, float* remaining, uint32_t* class_picks,
                    int num_images, int num_candidates, int num_picks, int method,
                    double iou_threshold, float sigma, float score_threshold, int max_per_class,
                    int class_agnostic, int boxes_in_shared) {
  effdet::NmsArguments args{};
  args.boxes = static_cast<const effdet::Box*>(boxes);
  args.scores = scores;
  args.labels = labels;
  args.picks = picks;
  args.pick_scores = pick_scores;
  args.counts = counts;
  args.remaining = remaining;
  args.class_picks = class_picks;
  args.num_candidates = num_candidates;
  args.num_picks = num_picks;
  args.method = static_cast<effdet::NmsMethod>(method);
  args.iou_threshold = effdet::largest_float_up_to(iou_threshold);
  args.sigma = sigma;
  args.score_threshold = score_threshold;
  args.max_per_class = effdet::limit_per_class(max_per_class);
  args.class_agnostic = class_agnostic;
  cuda_shim::Launcher launch;
  if (!boxes_in_shared) launch.dynamic_bytes = 0;
  effdet::launch_suppression(launch, args, num_images);
}
"""
METHODS = ("hard", "linear", "gaussian")
SETTINGS: dict[str, Any] = {
    "method": "hard",
    "iou_threshold": 0.5,
    "sigma": 0.5,
    "score_threshold": 0.0,
    "max_detections": 20,
    "max_per_class": 0,
    "class_agnostic": False,
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("nms"))


def nms(
    kernels: Library, boxes: Tensor, scores: Tensor, labels: Tensor, boxes_in_shared: bool, **given
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's results on tensors of the CPU."""
    settings = SETTINGS | given
    num_images, num_candidates = scores.shape
    num_picks = min(settings["max_detections"], num_candidates)
    picks = torch.full((num_images, num_picks), 77)
    kept, counts = torch.full(picks.shape, 77.0), torch.full((num_images,), 77)
    remaining = torch.full(scores.shape, 77.0)
    class_picks = torch.full(scores.shape, 77, dtype=torch.int32)
    tensors = (boxes, scores, labels, picks, kept, counts, remaining, class_picks)
    kernels.call(
        "nms",
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *map(ctypes.c_int, (num_images, num_candidates, num_picks)),
        ctypes.c_int(METHODS.index(settings["method"])),
        ctypes.c_double(settings["iou_threshold"]),
        ctypes.c_float(settings["sigma"]),
        ctypes.c_float(settings["score_threshold"]),
        ctypes.c_int(settings["max_per_class"]),
        ctypes.c_int(settings["class_agnostic"]),
        ctypes.c_int(boxes_in_shared),
    )
    return picks, kept, counts


def check(
    kernels: Library, boxes: Tensor, scores: Tensor, labels: Tensor, seed: int = 0, **given
) -> None:
    kernels.schedule(seed)
    picks, kept, counts = nms(kernels, boxes, scores, labels, seed % 2 == 0, **given)
    wanted = reference(boxes, scores, labels, *(SETTINGS | given).values())
    torch.testing.assert_close(counts, wanted[2], rtol=0, atol=0)
    torch.testing.assert_close(picks, wanted[0], rtol=0, atol=0)
    # The exponential of the Gaussian is not the same to the last bit everywhere.
    tolerance = 1e-5 if given.get("method") == "gaussian" else 0
    torch.testing.assert_close(kept, wanted[1], rtol=tolerance, atol=0)


def random_candidates(seed: int, num_images: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_images, count, 2, generator=generator) * 40 - 20
    sizes = torch.rand(num_images, count, 2, generator=generator) * 30
    scores = torch.rand(num_images, count, generator=generator)
    labels = torch.randint(0, 4, (num_images, count), generator=generator)
    return torch.cat([corners, corners + sizes], -1), scores, labels


def tied_candidates(seed: int, num_images: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Few distinct coordinates and scores: equal scores, equal boxes, boxes without area."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 3, (num_images, count, 2), generator=generator)
    sizes = torch.randint(0, 3, (num_images, count, 2), generator=generator)
    scores = torch.randint(-1, 4, (num_images, count), generator=generator) / 4
    labels = torch.randint(-1, 2, (num_images, count), generator=generator)
    return torch.cat([corners, corners + sizes], -1).float(), scores, labels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_random_candidates(kernels: Library, method: str, seed: int) -> None:
    candidates = random_candidates(seed, 2, [1, 33, 200, 1100][seed])
    check(kernels, *candidates, seed=seed, method=method, score_threshold=0.1 * seed)


@pytest.mark.parametrize("method", ["hard", "linear"])  # exact, so that ties stay ties
@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_go_by_index(kernels: Library, method: str, seed: int) -> None:
    threshold = [0.0, 0.25, 0.5, 1 / 3][seed]
    candidates = tied_candidates(seed, 2, 60 + 700 * (seed % 2))
    check(kernels, *candidates, seed=seed, method=method, iou_threshold=threshold)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("max_per_class", [0, 1, 3])
def test_limits_per_class(kernels: Library, agnostic: bool, max_per_class: int) -> None:
    settings = {"class_agnostic": agnostic, "max_per_class": max_per_class}
    check(kernels, *random_candidates(5, 1, 100), **settings)
    check(kernels, *tied_candidates(6, 1, 100), method="linear", **settings)


@pytest.mark.parametrize("count", [1025, 3000, 6000, 8193])
def test_many_candidates_a_thread(kernels: Library, count: int) -> None:
    check(kernels, *random_candidates(count, 1, count), max_detections=12, max_per_class=5)


@pytest.mark.parametrize("count", [40, 8200])
def test_everything_is_picked_until_nothing_is_left(kernels: Library, count: int) -> None:
    boxes, scores, labels = random_candidates(7, 2, count)
    scores[:, 30:] = 0
    check(kernels, boxes, scores, labels, max_detections=50)
    check(kernels, boxes, scores, labels, max_detections=50, score_threshold=1.0)


def test_sorted_candidates_with_an_unused_tail(kernels: Library) -> None:
    boxes, scores, labels = random_candidates(8, 3, 1500)
    scores = scores.sort(1, descending=True).values
    scores[0, 100:], scores[1] = -1, -1
    check(kernels, boxes, scores, labels, method="gaussian", score_threshold=0.001)


def test_numbers_that_are_no_scores(kernels: Library) -> None:
    boxes, scores, labels = random_candidates(9, 1, 64)
    nan, inf = float("nan"), float("inf")
    scores[0, :8] = torch.tensor([nan, inf, -inf, -0.0, 0.0, inf, 1e-40, 3e38])
    labels[0, ::7] = torch.tensor([2**40, 2**40 + 1, -(2**62), 0, 1, 2**32, 2, 3, 1, 2])
    for method in METHODS:
        check(kernels, boxes, scores, labels, method=method, max_detections=64)


def test_bad_coordinates(kernels: Library) -> None:
    boxes, scores, labels = random_candidates(10, 1, 60)
    nan, inf = float("nan"), float("inf")
    boxes[0, :8] = torch.tensor(
        [
            *([nan, 0, 5, 5], [0, 0, nan, 5], [-inf, -inf, inf, inf], [0, 0, inf, 5]),
            *([inf, inf, inf, inf], [5, 5, 0, 0], [-1e38, -1e38, 1e38, 1e38], [9, 9, 9, 9]),
        ]
    )
    boxes[0, 30:38] = boxes[0, :8]
    for method in METHODS:
        settings = {"method": method, "class_agnostic": True, "iou_threshold": 0.1}
        check(kernels, boxes, scores, labels, max_detections=60, **settings)


def test_iou_is_compared_in_double(kernels: Library) -> None:
    # The IoU is 0.7 rounded to float32, below 0.7 in double but not in float32.
    boxes = torch.tensor([[[0.0, 0, 10, 1], [0, 0, 7, 1]]])
    scores, labels = torch.tensor([[0.9, 0.8]]), torch.zeros(1, 2, dtype=torch.int64)
    for threshold, count in ((0.7, 2), (0.69999998, 1)):
        found = nms(kernels, boxes, scores, labels, True, iou_threshold=threshold)
        assert found[2].tolist() == [count]
        check(kernels, boxes, scores, labels, iou_threshold=threshold)


@pytest.mark.parametrize("sigma", [1e-45, 0.0])
def test_overlap_of_zero_costs_nothing_whatever_sigma(kernels: Library, sigma: float) -> None:
    """Beside, with an IoU whose square is too small for a float32, and without a number."""
    boxes = torch.tensor([[[0.0, 0, 1, 1], [2, 0, 3, 1], [0, 0, 1e-12, 1e-12], [0, 0, 1e38, 1e38]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.zeros(1, 4, dtype=torch.int64)
    _, kept, counts = nms(kernels, boxes, scores, labels, True, method="gaussian", sigma=sigma)
    assert counts.tolist() == [4]
    assert torch.equal(kept[:, :4], scores)
