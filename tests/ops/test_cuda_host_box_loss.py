# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the box loss, run on the CPU, against plain PyTorch."""

import ctypes
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.boxes import encode_boxes
from effdet.levels import DTYPES, flatten_levels
from tests.cuda_shim import Library, addresses, build

SOURCE = r"""
#include "box_loss.cuh"
#include "launcher.h"

using namespace effdet;

template <typename scalar_t>
void run(int channels_last, int num_levels, const int* shapes, void** deltas, void** gradients,
         const void* anchors, const void* boxes, const int* matched, int batch, int num_anchors,
         int num_boxes, const void* normalizer, const void* grad_scale, double delta, void* loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  BoxArguments<compute_t> empty;
  empty.levels.num_anchors = num_anchors;
  empty.anchors = static_cast<const float4*>(anchors);
  empty.boxes = static_cast<const float4*>(boxes);
  empty.matched = matched;
  empty.num_boxes = num_boxes;
  empty.normalizer = static_cast<const compute_t*>(normalizer);
  empty.grad_scale = static_cast<const compute_t*>(grad_scale);
  empty.delta = static_cast<compute_t>(delta);
  BoxArguments<compute_t> by_layout[2] = {empty, empty};
  const Layout layout = channels_last ? Layout::channels_last : Layout::contiguous;
  auto& b = by_layout[static_cast<int>(layout)];
  int64_t first_anchor = 0;
  for (int l = 0; l < num_levels; ++l) {
    const unsigned positions = shapes[2 * l], slots = shapes[2 * l + 1];
    const LevelShape shape{first_anchor, positions * slots * 4, positions, slots};
    add_box_level(b, shape, deltas[l], gradients[l], batch);
    first_anchor += positions * slots;
  }
  std::vector<double> partial_sums(b.levels.num_tiles);
  launch_box_loss<scalar_t>(cuda_shim::Launcher{}, by_layout, partial_sums.data(),
                            static_cast<compute_t*>(loss));
}

extern "C" {
#define EFFDET_TEST(name, type)                                                                   \
  void box_##name(int channels_last, int num_levels, const int* shapes, void** deltas,            \
                  void** gradients, const void* anchors, const void* boxes, const int* matched,   \
                  int batch, int num_anchors, int num_boxes, const void* normalizer,              \
                  const void* grad_scale, double delta, void* loss) {                             \
    run<type>(channels_last, num_levels, shapes, deltas, gradients, anchors, boxes, matched,      \
              batch, num_anchors, num_boxes, normalizer, grad_scale, delta, loss);                \
  }
EFFDET_TEST(float16, __half)
EFFDET_TEST(bfloat16, __nv_bfloat16)
EFFDET_TEST(float32, float)
EFFDET_TEST(float64, double)
}
"""
# Levels that no vector divides, images that do not start at 16 bytes, levels of a single place.
SHAPES = [(3, 8, 8), (3, 5, 3), (3, 1, 1), (3, 2, 1)]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("box"))


def make_example(
    dtype: torch.dtype, channels_last: bool, shapes: Sequence[tuple[int, int, int]], batch: int = 3
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Deltas, anchors, boxes and matches; some targets are exactly 0."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    deltas = [
        (0.3 * torch.randn(batch, anchors * 4, h, w, generator=generator))
        .to(dtype)
        .contiguous(memory_format=layout)
        for anchors, h, w in shapes
    ]
    num_anchors = sum(anchors * h * w for anchors, h, w in shapes)
    corners = 100 * torch.rand(num_anchors, 2, generator=generator)
    sizes = 10 + 30 * torch.rand(num_anchors, 2, generator=generator)
    anchors = torch.cat((corners, corners + sizes), -1)
    boxes = (anchors[:6] + 3 * torch.randn(batch, 6, 4, generator=generator)).contiguous()
    boxes[0, 0] = anchors[0]
    boxes[1, 1] = anchors[1] + torch.tensor([2.0, 0, 2, 0])
    matched = torch.randint(-2, 6, (batch, num_anchors), generator=generator, dtype=torch.int32)
    matched[0, 0], matched[1, 1] = 0, 1
    return deltas, anchors, boxes, matched


def kernel_result(
    kernels: Library,
    example: tuple[list[Tensor], Tensor, Tensor, Tensor],
    channels_last: bool,
    delta: float,
    need_grad: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    deltas, anchors, boxes, matched = example
    exact = torch.float64 if deltas[0].dtype == torch.float64 else torch.float32
    gradients = [torch.full_like(x, torch.nan) for x in deltas]
    shapes = torch.tensor([[x.shape[2] * x.shape[3], x.shape[1] // 4] for x in deltas])
    loss = torch.full((), torch.nan, dtype=exact)
    kernels.call(
        f"box_{str(deltas[0].dtype).removeprefix('torch.')}",
        int(channels_last),
        len(deltas),
        shapes.to(torch.int32).contiguous(),
        addresses(deltas),
        addresses(gradients if need_grad else [torch.empty(0)] * len(deltas)),
        anchors,
        boxes,
        matched,
        matched.shape[0],
        matched.shape[1],
        boxes.shape[1],
        torch.tensor(3.0, dtype=exact),
        torch.tensor(5.0, dtype=exact),
        ctypes.c_double(delta),
        loss,
    )
    return loss, gradients


def exact_result(
    example: tuple[list[Tensor], Tensor, Tensor, Tensor], delta: float
) -> tuple[Tensor, Tensor]:
    """Loss over 3, and 5 times its gradient ``[B, A, 4]``, in float64."""
    deltas, anchors, boxes, matched = example
    index = matched.long().clamp(min=0)[..., None].expand(-1, -1, 4)
    targets = encode_boxes(boxes.gather(1, index), anchors)
    counts = (matched >= 0)[..., None] & (targets != 0)
    x = flatten_levels(deltas, 4).double().requires_grad_()
    terms = F.huber_loss(x, targets.double(), reduction="none", delta=delta)
    loss = torch.where(counts, terms, 0.0).sum() / 3
    (gradient,) = torch.autograd.grad(5 * loss, x)
    return loss.detach(), gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("delta", [0.1, 0.75])
def test_box_loss(kernels: Library, dtype: torch.dtype, channels_last: bool, delta: float) -> None:
    example = make_example(dtype, channels_last, SHAPES)
    loss, gradients = kernel_result(kernels, example, channels_last, delta)
    expected, expected_gradient = exact_result(example, delta)
    rounding = {torch.float16: 2**-11, torch.bfloat16: 2**-8}.get(dtype, 0.0)
    # The targets are float32 for every dtype, and their logarithm is the C library's.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    gradient = flatten_levels(gradients, 4)
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=rounding + 1e-6, atol=1e-6
    )
    assert torch.equal(gradient == 0, expected_gradient == 0)
    alone, untouched = kernel_result(kernels, example, channels_last, delta, need_grad=False)
    assert torch.equal(alone, loss)
    assert all(x.isnan().all() for x in untouched)


@pytest.mark.parametrize("channels_last", [True, False])
def test_box_loss_of_several_tiles_repeats(kernels: Library, channels_last: bool) -> None:
    example = make_example(torch.float16, channels_last, [(9, 24, 24), (9, 3, 3)], 2)
    results = []
    for seed in (0, 1, 9):
        kernels.schedule(seed)
        results.append(kernel_result(kernels, example, channels_last, 0.1))
    kernels.schedule(0)
    torch.testing.assert_close(
        results[0][0].double(), exact_result(example, 0.1)[0], rtol=1e-6, atol=0
    )
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert all(map(torch.equal, gradients, results[0][1]))


@pytest.mark.parametrize("channels_last", [True, False])
def test_index_out_of_range_is_nan_in_its_row_only(kernels: Library, channels_last: bool) -> None:
    example = make_example(torch.float32, channels_last, SHAPES)
    example[3][2, 7] = 6
    loss, gradients = kernel_result(kernels, example, channels_last, 0.1)
    assert loss.isnan()
    is_nan = flatten_levels(gradients, 4).isnan()
    assert is_nan[2, 7].all()
    is_nan[2, 7] = False
    assert not is_nan.any()


def test_box_loss_without_boxes_or_levels(kernels: Library) -> None:
    deltas, anchors, _, matched = make_example(torch.float16, True, [(3, 4, 4)])
    nothing = (deltas, anchors, torch.empty(3, 0, 4), matched.clamp(max=-1))
    loss, gradients = kernel_result(kernels, nothing, True, 0.1)
    assert loss.item() == 0
    assert not gradients[0].any()
    empty = ([torch.empty(2, 12, 0, 3)], torch.empty(0, 4), torch.empty(2, 1, 4), matched[:2, :0])
    loss, _ = kernel_result(kernels, empty, True, 0.1)
    assert loss.item() == 0


def test_nan_in_prediction_or_box_gives_nan(kernels: Library) -> None:
    example = make_example(torch.float32, True, SHAPES)
    example[3].fill_(-1)
    example[3][0, 5], example[3][1, 6] = 3, 2
    example[0][0][0, 4 * (5 % 3), 0, 5 // 3] = torch.nan  # the first value of anchor 5
    loss, gradients = kernel_result(kernels, example, True, 0.1)
    assert loss.isnan()
    assert int(gradients[0].isnan().sum()) == 1
    example[0][0].zero_()
    example[2][1, 2, 0] = torch.nan  # left edge: centre and width
    loss, gradients = kernel_result(kernels, example, True, 0.1)
    assert loss.isnan()
    assert flatten_levels(gradients, 4)[1, 6].isnan().tolist() == [True, False, True, False]
