# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of select_candidates, run on the CPU, against the definition of the operator."""

import ctypes
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from effdet.ops.select_candidates import MAX_LOG_RATIO, reference
from tests.cuda_shim import Library, build

SOURCE = r"""
#include "launcher.h"
#include "select_candidates.cuh"

// What a test may choose beside the arguments of the operator.
struct Limits {
  int sort_in_shared, max_blocks;
  long long capacity;  // 0: as planned
};

effdet::Layout layout(bool channels_last) {
  return channels_last ? effdet::Layout::channels_last : effdet::Layout::contiguous;
}

template <typename scalar_t>
void select(const int64_t (*levels)[6], int num_levels, int num_images, int num_classes,
            int num_candidates, double score_threshold, const int64_t* exclude, int num_excluded,
            const effdet::Box* anchors, const effdet::CandidateOutputs& out, const Limits& limits) {
  cuda_shim::Launcher launch;
  if (!limits.sort_in_shared) launch.dynamic_bytes = 0;
  effdet::CandidateLevels all;
  all.num_classes = num_classes;
  for (int i = 0; i < num_levels; ++i) {
    const auto& row = levels[i];
    effdet::add_candidate_level<scalar_t>(all, reinterpret_cast<const void*>(row[0]),
                                          layout(row[2]), reinterpret_cast<const void*>(row[1]),
                                          layout(row[3]), static_cast<uint32_t>(row[4]),
                                          static_cast<uint32_t>(row[5]));
  }
  auto selection =
      effdet::plan_selection<scalar_t>(all.num_pairs, num_candidates, score_threshold);
  if (limits.capacity) selection.capacity = selection.sort_size;
  const size_t images = num_images;
  std::vector<effdet::Cut> cuts(images);
  std::vector<uint32_t> histograms(images * effdet::kBins, 77);
  std::vector<uint32_t> excluded((num_classes + 31) / 32, 77);
  std::vector<uint64_t> collected(images * selection.capacity, 77), sorted;
  effdet::SelectionWorkspace workspace{};
  workspace.cuts = cuts.data();
  workspace.histograms = histograms.data();
  workspace.excluded = num_excluded ? excluded.data() : nullptr;
  workspace.collected = collected.data();
  if (!effdet::sorts_in_shared<scalar_t>(launch, selection)) {
    sorted.resize(images * effdet::padded(selection.sort_size), 77);
    workspace.sorted = sorted.data();
  }
  effdet::launch_selection<scalar_t>(launch, all, selection, workspace, num_images, exclude,
                                     num_excluded, anchors, out, limits.max_blocks);
}

extern "C" void select_candidates(const int64_t (*levels)[6], const int64_t* exclude,
                                  const void* anchors, void* boxes, float* scores, int64_t* labels,
                                  int64_t* anchor_index, int dtype, int num_levels, int num_images,
                                  int num_classes, int num_candidates, int num_excluded,
                                  int sort_in_shared, int max_blocks, int smallest_capacity,
                                  double score_threshold) {
  const effdet::CandidateOutputs out{static_cast<effdet::Box*>(boxes), scores, labels,
                                     anchor_index};
  const Limits limits{sort_in_shared, max_blocks, smallest_capacity};
  const auto run = dtype == 0 ? select<float> : dtype == 1 ? select<__half> : select<__nv_bfloat16>;
  run(levels, num_levels, num_images, num_classes, num_candidates, score_threshold, exclude,
      num_excluded, static_cast<const effdet::Box*>(anchors), out, limits);
}
"""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [(2, 5, 7), (3, 2, 3), (1, 0, 4), (2, 1, 1)]  # anchors, height and width of the levels


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("select"))


def describe(logits: Tensor, deltas: Tensor, num_classes: int) -> list[int]:
    """A level in the form that the kernels take."""
    _, channels, height, width = logits.shape
    return [
        *(logits.data_ptr(), deltas.data_ptr(), logits.stride(1) == 1, deltas.stride(1) == 1),
        *(height * width, channels // num_classes),
    ]


def select(
    kernels: Library,
    logits: list[Tensor],
    deltas: list[Tensor],
    anchors: Tensor,
    num_classes: int,
    max_candidates: int,
    score_threshold: float,
    exclude: Sequence[int],
    *,
    sort_in_shared: bool = True,
    max_blocks: int = 1000,
    smallest_capacity: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernels' results on tensors of the CPU."""
    num_images, count = logits[0].shape[0], min(max_candidates, anchors.shape[0] * num_classes)
    boxes, scores = torch.full((num_images, count, 4), 77.0), torch.full((num_images, count), 77.0)
    labels, index = torch.full((num_images, count), 77), torch.full((num_images, count), 77)
    rows = [describe(x, d, num_classes) for x, d in zip(logits, deltas, strict=True)]
    table, excluded = torch.tensor(rows), torch.tensor(list(exclude), dtype=torch.int64)
    tensors = (table, excluded, anchors, boxes, scores, labels, index)
    kernels.call(
        "select_candidates",
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *map(ctypes.c_int, (DTYPES.index(logits[0].dtype), len(logits), num_images, num_classes)),
        *map(ctypes.c_int, (count, len(exclude), sort_in_shared, max_blocks, smallest_capacity)),
        ctypes.c_double(score_threshold),
    )
    return boxes, scores, labels, index


def check(
    kernels: Library,
    logits: list[Tensor],
    deltas: list[Tensor],
    anchors: Tensor,
    num_classes: int,
    max_candidates: int,
    score_threshold: float = 0.0,
    exclude: Sequence[int] = (),
    seed: int = 0,
    **limits: int,
) -> None:
    arguments = (logits, deltas, anchors, num_classes, max_candidates, score_threshold, exclude)
    kernels.schedule(seed)
    found = select(kernels, *arguments, **limits)
    wanted = reference(*arguments)
    for name, actual, expected in zip(
        ("anchors", "labels", "scores", "boxes"), reversed(found), reversed(wanted), strict=True
    ):
        exact = not expected.is_floating_point()
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 2e-6, "atol": 2e-5}
        torch.testing.assert_close(actual, expected, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def outputs(
    seed: int,
    num_images: int,
    num_classes: int,
    dtype: torch.dtype = torch.float32,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Random logits and deltas of all levels, in both layouts, and anchors."""
    generator = torch.Generator().manual_seed(seed)
    levels: list[list[Tensor]] = [[], []]
    for place, (anchors, height, width) in enumerate(shapes):
        for kind, values in enumerate((num_classes, 4)):
            level = torch.randn(num_images, anchors * values, height, width, generator=generator)
            if (place + seed + kind) % 2:
                level = level.to(memory_format=torch.channels_last)
            levels[kind].append(level.to(dtype))
    corners = torch.rand(sum(a * h * w for a, h, w in shapes), 2, generator=generator) * 100
    return *levels, torch.cat([corners, corners + 30], 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
def test_random_outputs(kernels: Library, dtype: torch.dtype, seed: int) -> None:
    num_classes = [1, 2, 5, 9, 33, 90][seed]
    levels = outputs(seed, 3, num_classes, dtype)
    count = [1, 7, 40, 100, 64, 5000][seed]
    threshold = [0.0, 0.3, 0.5, 0.0, 0.8, 0.6][seed]
    exclude = [(), (0,), (1, 4), (), range(5, 33), ()][seed]
    limits = {"sort_in_shared": seed % 2, "max_blocks": seed + 1, "smallest_capacity": seed % 3}
    check(kernels, *levels, num_classes, count, threshold, exclude, seed, **limits)


@pytest.mark.parametrize("smallest_capacity", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_logits_go_by_flat_index(
    kernels: Library, dtype: torch.dtype, smallest_capacity: int
) -> None:
    """Down to the last bits of the index, in both layouts."""
    settings = {"seed": 1 + smallest_capacity, "smallest_capacity": smallest_capacity}
    logits, deltas, anchors = outputs(1, 2, 11, dtype)
    for level in logits:
        level.fill_(-1.5)
    check(kernels, logits, deltas, anchors, 11, 37, **settings)
    for level in logits:
        level.copy_(torch.randint(-1, 2, level.shape).mul(0.125))
        level[level == 0] = -0.0
        level[:, ::3] += 0.0
    check(kernels, logits, deltas, anchors, 11, 300, **settings)


@pytest.mark.parametrize("smallest_capacity", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_logits_below_a_few_better_ones(
    kernels: Library, dtype: torch.dtype, smallest_capacity: int
) -> None:
    """The C-th is one of many equal ones, and C fills what is sorted to the last place."""
    logits, deltas, anchors = outputs(2, 2, 11, dtype)
    for level in logits:
        better = torch.rand(level.shape) < 0.02
        level.copy_(torch.where(better, level.abs() + 1, -2.0))
    for seed in (0, 1):
        settings = {"seed": seed, "smallest_capacity": smallest_capacity, "max_blocks": 2}
        check(kernels, logits, deltas, anchors, 11, 64, **settings)


@pytest.mark.parametrize("smallest_capacity", [0, 1])
def test_logits_that_differ_in_the_last_bits_only(kernels: Library, smallest_capacity: int) -> None:
    logits, deltas, anchors = outputs(2, 1, 7)
    for level in logits:
        bits = torch.full(level.shape, 0x3F800000) + torch.randint(0, 40, level.shape)
        level.copy_(bits.int().view(torch.float32) * -1)
    settings = {"seed": 1, "smallest_capacity": smallest_capacity}
    check(kernels, logits, deltas, anchors, 7, 64, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_blocks", [1, 3])
def test_many_tiles_a_block(kernels: Library, dtype: torch.dtype, max_blocks: int) -> None:
    """The block's floor rises while it reads; the result does not change."""
    shapes = [(3, 16, 20), (3, 8, 9)]
    logits, deltas, anchors = outputs(3, 2, 31, dtype, shapes)
    for exclude in ((), (3, 30)):
        settings = {"exclude": exclude, "max_blocks": max_blocks, "seed": max_blocks}
        check(kernels, logits, deltas, anchors, 31, 150, 0.01, smallest_capacity=1, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_no_logits(kernels: Library, dtype: torch.dtype) -> None:
    logits, deltas, anchors = outputs(4, 2, 3, dtype)
    inf = float("inf")
    special = torch.tensor([inf, -inf, float("nan"), 0.0, -0.0, 6e4, -6e4, 1e-7, -1e-7, inf])
    for level in logits:
        chosen = torch.randint(0, 20, level.shape)
        values = special[chosen.clamp(max=9)].to(dtype)
        level.copy_(torch.where(chosen < 10, values, level))
    for threshold in (0.0, 0.5, 0.9999, 1.0):
        check(kernels, logits, deltas, anchors, 3, 5000, threshold)
    check(kernels, [level.fill_(float("nan")) for level in logits], deltas, anchors, 3, 20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_boxes_that_are_not_finite_leave_their_place_unused(
    kernels: Library, dtype: torch.dtype
) -> None:
    logits, deltas, anchors = outputs(5, 1, 2, dtype)
    nan, inf = float("nan"), float("inf")
    special = torch.tensor([nan, inf, -inf, 90.0, -90.0, MAX_LOG_RATIO, 6e4])
    for level in deltas:
        chosen = torch.randint(0, 30, level.shape)
        values = special[chosen.clamp(max=6)].to(dtype)
        level.copy_(torch.where(chosen < 7, values, level))
    arguments = (logits, deltas, anchors, 2, 100, 0.0, ())
    found, wanted = select(kernels, *arguments), reference(*arguments)
    assert (wanted[1] == -1).any()
    assert (wanted[1] > 0).any()
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found[1], wanted[1], rtol=2e-6, atol=0)
    assert torch.equal(found[2], wanted[2])
    assert torch.equal(found[3], wanted[3])


def test_nothing_above_the_threshold(kernels: Library) -> None:
    logits, deltas, anchors = outputs(7, 2, 4)
    found = select(kernels, logits, deltas, anchors, 4, 30, 0.9999999, ())
    assert (found[1] == -1).all()
    assert not any(found[i].any() for i in (0, 2, 3))
    everything = range(4)
    assert (select(kernels, logits, deltas, anchors, 4, 30, 0.0, everything)[1] == -1).all()


def test_many_excluded_classes(kernels: Library) -> None:
    """More than one launch can carry."""
    levels = outputs(8, 1, 700, torch.float16, [(1, 2, 3)])
    check(kernels, *levels, 700, 400, exclude=[k for k in range(700) if k % 7], seed=3)
