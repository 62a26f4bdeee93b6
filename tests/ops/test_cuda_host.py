# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the losses, run on the CPU by tests/cuda_shim, against plain PyTorch."""

import ctypes
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.boxes import encode_boxes
from tests.cuda_shim import Library, build, pointer

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BACKGROUND, IGNORE = -1, -2

FOCAL = r"""
#include "focal_loss.cuh"

using namespace effdet;

template <typename scalar_t>
void run(bool channels_last, int num_levels, const int* shapes, void** logits, void** gradients,
         const int* targets, int batch, int num_anchors, int num_classes, const void* normalizer,
         const void* grad_scale, double alpha, double gamma, double smoothing, void* loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  const Layout layout = channels_last ? Layout::channels_last : Layout::contiguous;
  auto f = focal_arguments<compute_t>(targets, num_anchors, num_classes,
                                      static_cast<const compute_t*>(normalizer),
                                      static_cast<const compute_t*>(grad_scale), alpha, gamma,
                                      smoothing);
  int64_t first_anchor = 0;
  for (int l = 0; l < num_levels; ++l) {
    const int positions = shapes[2 * l], anchors = shapes[2 * l + 1];
    add_focal_level(f, layout, Storage<scalar_t>::kVector, logits[l], gradients[l], first_anchor,
                    batch, positions, anchors);
    first_anchor += positions * anchors;
  }
  std::unique_ptr<double[]> partial_sums(new double[f.levels.num_tiles]);
  f.partial_sums = partial_sums.get();
  if (f.levels.num_tiles > 0) {
    with_focal_kernel<scalar_t>(layout, gamma, smoothing, [&](auto kernel) {
      cuda_shim::launch(dim3(f.levels.num_tiles), dim3(kFocalThreads), 0, [&] { kernel(f); });
    });
  }
  cuda_shim::launch(dim3(1), dim3(kSumThreads), 0, [&] {
    mean_of_partial_sums(f.partial_sums, f.levels.num_tiles, f.normalizer,
                         static_cast<compute_t*>(loss));
  });
}

extern "C" {
#define EFFDET_TEST(name, type)                                                                   \
  void focal_##name(int channels_last, int num_levels, const int* shapes, void** logits,          \
                    void** gradients, const int* targets, int batch, int num_anchors,             \
                    int num_classes, const void* normalizer, const void* grad_scale,              \
                    double alpha, double gamma, double smoothing, void* loss) {                   \
    run<type>(channels_last, num_levels, shapes, logits, gradients, targets, batch, num_anchors,  \
              num_classes, normalizer, grad_scale, alpha, gamma, smoothing, loss);                \
  }
EFFDET_TEST(float16, __half)
EFFDET_TEST(bfloat16, __nv_bfloat16)
EFFDET_TEST(float32, float)
EFFDET_TEST(float64, double)

void quotients(uint32_t divisor, const uint32_t* numerators, uint32_t* result, int count) {
  const Division division(divisor);
  for (int i = 0; i < count; ++i) result[i] = division.quotient(numerators[i]);
}
}
"""

BOX = r"""
#include "box_loss.cuh"
#include "rescale.cuh"

using namespace effdet;

template <typename scalar_t>
void run(int channels_last, int num_levels, const int* shapes, void** deltas, void** gradients,
         const void* anchors, const void* boxes, const int* matched, int batch, int num_anchors,
         int num_boxes, const void* normalizer, const void* grad_scale, double delta, void* loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  BoxArguments<compute_t> b;
  b.levels.num_anchors = num_anchors;
  b.anchors = static_cast<const float4*>(anchors);
  b.boxes = static_cast<const float4*>(boxes);
  b.matched = matched;
  b.num_boxes = num_boxes;
  b.normalizer = static_cast<const compute_t*>(normalizer);
  b.grad_scale = static_cast<const compute_t*>(grad_scale);
  b.delta = static_cast<compute_t>(delta);
  int64_t first_anchor = 0;
  for (int l = 0; l < num_levels; ++l) {
    const int positions = shapes[2 * l], at_one_position = shapes[2 * l + 1];
    add_box_level(b, deltas[l], gradients[l], first_anchor, batch, positions, at_one_position);
    first_anchor += positions * at_one_position;
  }
  std::unique_ptr<double[]> partial_sums(new double[b.levels.num_tiles]);
  b.partial_sums = partial_sums.get();
  if (b.levels.num_tiles > 0) {
    cuda_shim::launch(dim3(b.levels.num_tiles), dim3(kBoxThreads), 0, [&] {
      if (channels_last) {
        box_loss<scalar_t, Layout::channels_last>(b);
      } else {
        box_loss<scalar_t, Layout::contiguous>(b);
      }
    });
  }
  cuda_shim::launch(dim3(1), dim3(kSumThreads), 0, [&] {
    mean_of_partial_sums(b.partial_sums, b.levels.num_tiles, b.normalizer,
                         static_cast<compute_t*>(loss));
  });
}

template <typename scalar_t>
void run_rescale(void** values, const int* sizes, int count, const void* grad_output,
                 const void* grad_scale) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  RescaleArguments<compute_t> r;
  for (; r.count < count; ++r.count) {
    r.values[r.count] = values[r.count];
    r.sizes[r.count] = sizes[r.count];
  }
  r.grad_output = static_cast<const compute_t*>(grad_output);
  r.grad_scale = static_cast<const compute_t*>(grad_scale);
  cuda_shim::launch(dim3(2), dim3(kRescaleThreads), 0, [&] { rescale<scalar_t>(r); });
}

extern "C" {
#define EFFDET_TEST(name, type)                                                                   \
  void box_##name(int channels_last, int num_levels, const int* shapes, void** deltas,            \
                  void** gradients, const void* anchors, const void* boxes, const int* matched,   \
                  int batch, int num_anchors, int num_boxes, const void* normalizer,              \
                  const void* grad_scale, double delta, void* loss) {                             \
    run<type>(channels_last, num_levels, shapes, deltas, gradients, anchors, boxes, matched,      \
              batch, num_anchors, num_boxes, normalizer, grad_scale, delta, loss);                \
  }                                                                                               \
  void rescale_##name(void** values, const int* sizes, int count, const void* grad_output,        \
                      const void* grad_scale) {                                                   \
    run_rescale<type>(values, sizes, count, grad_output, grad_scale);                             \
  }
EFFDET_TEST(float16, __half)
EFFDET_TEST(bfloat16, __nv_bfloat16)
EFFDET_TEST(float32, float)
EFFDET_TEST(float64, double)
}
"""


@pytest.fixture(scope="module")
def focal(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(FOCAL, tmp_path_factory.mktemp("focal"))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(BOX, tmp_path_factory.mktemp("box"))


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(pointer(x) if x.numel() else None for x in tensors))


def flatten(levels: Sequence[Tensor], values: int) -> Tensor:
    """``[B, A, values]`` in anchor order of levels ``[B, anchors * values, H, W]``."""
    rows = [x.permute(0, 2, 3, 1).flatten(1) for x in levels]
    return torch.cat([x.view(len(x), x.shape[1] // values, values) for x in rows], 1)


def example(
    dtype: torch.dtype,
    channels_last: bool,
    num_classes: int,
    shapes: Sequence[tuple[int, int, int]],
    batch: int = 3,
    scale: float = 4.0,
) -> tuple[list[Tensor], Tensor]:
    """Logits of levels of (anchors, H, W), and targets with every kind of anchor."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    levels = [
        (scale * torch.randn(batch, anchors * num_classes, h, w, generator=generator) - 1)
        .to(dtype)
        .contiguous(memory_format=layout)
        for anchors, h, w in shapes
    ]
    num_anchors = sum(anchors * h * w for anchors, h, w in shapes)
    size = (batch, num_anchors)
    targets = torch.randint(IGNORE, num_classes, size, generator=generator, dtype=torch.int32)
    usual = torch.rand(size, generator=generator) < 0.7
    return levels, targets.masked_fill(usual, BACKGROUND)


def kernel_result(
    focal: Library,
    levels: Sequence[Tensor],
    targets: Tensor,
    num_classes: int,
    channels_last: bool,
    gamma: float,
    smoothing: float,
    normalizer: float = 7.0,
    grad_scale: float = 1.0,
    need_grad: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    exact = torch.float64 if levels[0].dtype == torch.float64 else torch.float32
    gradients = [torch.full_like(x, torch.nan) for x in levels]
    shapes = torch.tensor([[x.shape[2] * x.shape[3], x.shape[1] // num_classes] for x in levels])
    loss = torch.full((), torch.nan, dtype=exact)
    no_gradients = [torch.empty(0)] * len(levels)
    focal.call(
        f"focal_{str(levels[0].dtype).removeprefix('torch.')}",
        int(channels_last),
        len(levels),
        shapes.to(torch.int32).contiguous(),
        addresses(levels),
        addresses(gradients if need_grad else no_gradients),
        targets,
        targets.shape[0],
        targets.shape[1],
        num_classes,
        torch.tensor(normalizer, dtype=exact),
        torch.tensor(grad_scale, dtype=exact),
        ctypes.c_double(0.25),
        ctypes.c_double(gamma),
        ctypes.c_double(smoothing),
        loss,
    )
    return loss, gradients


def exact_result(
    levels: Sequence[Tensor],
    targets: Tensor,
    num_classes: int,
    gamma: float,
    smoothing: float,
    normalizer: float = 7.0,
    grad_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Loss and gradient ``[B, A, K]`` in float64, by autograd."""
    x = flatten(levels, num_classes).double()
    x = x.masked_fill((targets == IGNORE)[..., None], 0.0).requires_grad_()
    present = targets[..., None] == torch.arange(num_classes)
    wrong = torch.where(present, -x, x)
    terms = -F.logsigmoid(-wrong) - smoothing / 2 * wrong
    terms = terms * torch.where(present, 0.25, 0.75) * torch.exp(gamma * F.logsigmoid(wrong))
    loss = torch.where((targets == IGNORE)[..., None], 0.0, terms).sum() / normalizer
    (gradient,) = torch.autograd.grad(loss * grad_scale, x)
    return loss.detach(), gradient


def assert_equal(
    result: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, Tensor], num_classes: int
) -> None:
    loss, gradients = result
    dtype = gradients[0].dtype
    gradient = flatten(gradients, num_classes)
    assert not gradient.isnan().any()
    tight = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(loss.double(), expected[0], rtol=tight, atol=0)
    # One rounding to the type, and what the arithmetic adds: relative to the gradient, and where
    # smoothing lets it cross 0, to the largest.
    eps = {torch.float16: 2**-11, torch.bfloat16: 2**-8}.get(dtype, 0.0)
    smallest = {torch.float16: 2**-25}.get(dtype, 0.0)
    largest = expected[1].abs().max().item() if expected[1].numel() else 0.0
    torch.testing.assert_close(
        gradient.double(), expected[1], rtol=eps + 2 * tight, atol=smallest + 0.1 * tight * largest
    )


# Levels that no vector divides, images that do not start at 16 bytes, levels of a single place.
SHAPES = [(3, 8, 8), (3, 5, 3), (3, 1, 1), (3, 2, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("num_classes", [1, 3, 8, 20, 33])
@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_focal_loss(
    focal: Library, dtype: torch.dtype, channels_last: bool, num_classes: int, gamma: float
) -> None:
    levels, targets = example(dtype, channels_last, num_classes, SHAPES)
    result = kernel_result(focal, levels, targets, num_classes, channels_last, gamma, 0.0)
    expected = exact_result(levels, targets, num_classes, gamma, 0.0)
    assert_equal(result, expected, num_classes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.5, 2.0, 3.7])
def test_focal_loss_with_smoothing_and_scale(
    focal: Library, dtype: torch.dtype, channels_last: bool, gamma: float
) -> None:
    levels, targets = example(dtype, channels_last, 11, [(2, 4, 4), (2, 3, 3)])
    settings = {"normalizer": 3.0, "grad_scale": 5.0}
    result = kernel_result(focal, levels, targets, 11, channels_last, gamma, 0.1, **settings)
    assert_equal(result, exact_result(levels, targets, 11, gamma, 0.1, **settings), 11)


@pytest.mark.parametrize("channels_last", [True, False])
def test_focal_loss_of_several_tiles_and_without_gradient(
    focal: Library, channels_last: bool
) -> None:
    levels, targets = example(torch.float16, channels_last, 90, [(9, 16, 16), (9, 8, 8)], batch=2)
    loss, gradients = kernel_result(focal, levels, targets, 90, channels_last, 1.5, 0.0)
    assert_equal((loss, gradients), exact_result(levels, targets, 90, 1.5, 0.0), 90)
    alone, untouched = kernel_result(
        focal, levels, targets, 90, channels_last, 1.5, 0.0, need_grad=False
    )
    assert torch.equal(alone, loss)
    assert all(x.isnan().all() for x in untouched)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_positive_at_every_place_of_a_vector(
    focal: Library, dtype: torch.dtype, channels_last: bool
) -> None:
    for num_classes in (8, 9, 17):
        levels, targets = example(dtype, channels_last, num_classes, [(2, 8, num_classes)], 1)
        targets.fill_(BACKGROUND)
        diagonal = torch.arange(targets.shape[1], dtype=torch.int32)
        targets[0, ::3] = (diagonal % num_classes)[::3]
        targets[0, 4::7] = IGNORE
        result = kernel_result(focal, levels, targets, num_classes, channels_last, 2.0, 0.0)
        assert_equal(result, exact_result(levels, targets, num_classes, 2.0, 0.0), num_classes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
def test_ignored_anchors_are_zero_whatever_their_logits(
    focal: Library, dtype: torch.dtype, channels_last: bool
) -> None:
    levels, targets = example(dtype, channels_last, 13, SHAPES)
    (clean, _) = kernel_result(focal, levels, targets, 13, channels_last, 1.5, 0.0)
    first = 0
    for x in levels:
        anchors, positions = x.shape[1] // 13, x.shape[2] * x.shape[3]
        part = targets[:, first : first + anchors * positions] == IGNORE
        part = part.view(x.shape[0], *x.shape[2:], anchors).permute(
            0, 3, 1, 2
        )  # [B, anchors, H, W]
        x.masked_fill_(part.repeat_interleave(13, 1), torch.nan)
        first += anchors * positions
    loss, gradients = kernel_result(focal, levels, targets, 13, channels_last, 1.5, 0.0)
    assert torch.equal(loss, clean)
    assert (flatten(gradients, 13)[targets == IGNORE] == 0).all()
    everything = torch.full_like(targets, IGNORE)
    loss, gradients = kernel_result(focal, levels, everything, 13, channels_last, 1.5, 0.0)
    assert loss.item() == 0
    assert (flatten(gradients, 13) == 0).all()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("bad", [13, 2**31 - 1, -3, -(2**31)])
def test_target_out_of_range_is_nan_in_its_row_only(
    focal: Library, channels_last: bool, bad: int
) -> None:
    levels, targets = example(torch.float32, channels_last, 13, SHAPES)
    targets[1, 5] = bad
    loss, gradients = kernel_result(focal, levels, targets, 13, channels_last, 1.5, 0.0)
    assert loss.isnan()
    is_nan = flatten(gradients, 13).isnan()
    assert is_nan[1, 5].all()
    is_nan[1, 5] = False
    assert not is_nan.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0, 3.0])
def test_extreme_logits(
    focal: Library, dtype: torch.dtype, channels_last: bool, gamma: float
) -> None:
    values = torch.tensor([-6e4, 6e4, -100.0, 100.0, -20.0, 20.0, -0.0, 0.0], dtype=dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    level = values.repeat(9, 1).T.expand(1, 8, 9).reshape(1, 8, 3, 3).contiguous(
        memory_format=layout
    )  # fmt: skip
    targets = torch.arange(-1, 8, dtype=torch.int32)[None]
    result = kernel_result(focal, [level], targets, 8, channels_last, gamma, 0.1)
    assert_equal(result, exact_result([level], targets, 8, gamma, 0.1), 8)


def test_nan_logit_gives_nan(focal: Library) -> None:
    for channels_last in (True, False):
        levels, targets = example(torch.float16, channels_last, 20, SHAPES)
        targets.fill_(BACKGROUND)
        levels[0][0, 3, 2, 2] = torch.nan
        loss, gradients = kernel_result(focal, levels, targets, 20, channels_last, 1.5, 0.0)
        assert loss.isnan()
        assert sum(int(x.isnan().sum()) for x in gradients) == 1


def test_empty_levels_and_batches(focal: Library) -> None:
    for shapes, batch in (([(3, 0, 4)], 2), ([(3, 4, 4)], 0), ([(3, 0, 0), (3, 2, 2)], 2)):
        levels, targets = example(torch.float32, True, 5, shapes, batch)
        loss, gradients = kernel_result(focal, levels, targets, 5, True, 1.5, 0.0)
        assert_equal((loss, gradients), exact_result(levels, targets, 5, 1.5, 0.0), 5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_any_schedule_gives_the_same_bits(focal: Library, channels_last: bool) -> None:
    levels, targets = example(torch.bfloat16, channels_last, 20, [(9, 16, 16), (9, 3, 3)])
    results = []
    for seed in (0, 1, 7):
        focal.schedule(seed)
        results.append(kernel_result(focal, levels, targets, 20, channels_last, 1.5, 0.0))
    focal.schedule(0)
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert all(map(torch.equal, gradients, results[0][1]))


def test_division_is_exact(focal: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    for divisor in (1, 2, 3, 7, 8, 80, 90, 91, 641, 65537, 2**20 + 1, 2**26 - 1):
        random = torch.randint(2**31, (20_000,), generator=generator)
        multiples = random // divisor * divisor
        numerators = torch.cat((random, multiples, (multiples - 1).clamp(min=0)))
        numerators = torch.cat((numerators, torch.tensor([0, 2**31 - 1]))).to(torch.int32)
        result = torch.empty_like(numerators)
        focal.call("quotients", ctypes.c_uint32(divisor), numerators, result, numerators.numel())
        assert torch.equal(result, numerators // divisor)


# --- box loss ---


def box_example(
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


def box_kernel(
    box: Library,
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
    box.call(
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


def box_exact(
    example: tuple[list[Tensor], Tensor, Tensor, Tensor], delta: float
) -> tuple[Tensor, Tensor]:
    """Loss over 3, and 5 times its gradient ``[B, A, 4]``, in float64."""
    deltas, anchors, boxes, matched = example
    index = matched.long().clamp(min=0)[..., None].expand(-1, -1, 4)
    targets = encode_boxes(boxes.gather(1, index), anchors)
    counts = (matched >= 0)[..., None] & (targets != 0)
    x = flatten(deltas, 4).double().requires_grad_()
    terms = F.huber_loss(x, targets.double(), reduction="none", delta=delta)
    loss = torch.where(counts, terms, 0.0).sum() / 3
    (gradient,) = torch.autograd.grad(5 * loss, x)
    return loss.detach(), gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("delta", [0.1, 0.75])
def test_box_loss(box: Library, dtype: torch.dtype, channels_last: bool, delta: float) -> None:
    example = box_example(dtype, channels_last, SHAPES)
    loss, gradients = box_kernel(box, example, channels_last, delta)
    expected, expected_gradient = box_exact(example, delta)
    rounding = {torch.float16: 2**-11, torch.bfloat16: 2**-8}.get(dtype, 0.0)
    # The targets are float32 for every dtype, and their logarithm is the C library's.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    gradient = flatten(gradients, 4)
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=rounding + 1e-6, atol=1e-6
    )
    assert torch.equal(gradient == 0, expected_gradient == 0)
    alone, untouched = box_kernel(box, example, channels_last, delta, need_grad=False)
    assert torch.equal(alone, loss)
    assert all(x.isnan().all() for x in untouched)


@pytest.mark.parametrize("channels_last", [True, False])
def test_box_loss_of_several_tiles_repeats(box: Library, channels_last: bool) -> None:
    example = box_example(torch.float16, channels_last, [(9, 24, 24), (9, 3, 3)], 2)
    results = []
    for seed in (0, 1, 9):
        box.schedule(seed)
        results.append(box_kernel(box, example, channels_last, 0.1))
    box.schedule(0)
    torch.testing.assert_close(
        results[0][0].double(), box_exact(example, 0.1)[0], rtol=1e-6, atol=0
    )
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert all(map(torch.equal, gradients, results[0][1]))


@pytest.mark.parametrize("channels_last", [True, False])
def test_box_index_out_of_range_is_nan_in_its_row_only(box: Library, channels_last: bool) -> None:
    example = box_example(torch.float32, channels_last, SHAPES)
    example[3][2, 7] = 6
    loss, gradients = box_kernel(box, example, channels_last, 0.1)
    assert loss.isnan()
    is_nan = flatten(gradients, 4).isnan()
    assert is_nan[2, 7].all()
    is_nan[2, 7] = False
    assert not is_nan.any()


def test_box_loss_without_boxes_or_levels(box: Library) -> None:
    deltas, anchors, _, matched = box_example(torch.float16, True, [(3, 4, 4)])
    nothing = (deltas, anchors, torch.empty(3, 0, 4), matched.clamp(max=-1))
    loss, gradients = box_kernel(box, nothing, True, 0.1)
    assert loss.item() == 0
    assert not gradients[0].any()
    empty = ([torch.empty(2, 12, 0, 3)], torch.empty(0, 4), torch.empty(2, 1, 4), matched[:2, :0])
    loss, _ = box_kernel(box, empty, True, 0.1)
    assert loss.item() == 0


def test_nan_in_prediction_or_box_gives_nan(box: Library) -> None:
    example = box_example(torch.float32, True, SHAPES)
    example[3].fill_(-1)
    example[3][0, 5], example[3][1, 6] = 3, 2
    example[0][0][0, 4 * (5 % 3), 0, 5 // 3] = torch.nan  # the first value of anchor 5
    loss, gradients = box_kernel(box, example, True, 0.1)
    assert loss.isnan()
    assert int(gradients[0].isnan().sum()) == 1
    example[0][0].zero_()
    example[2][1, 2, 0] = torch.nan  # left edge: centre and width
    loss, gradients = box_kernel(box, example, True, 0.1)
    assert loss.isnan()
    assert flatten(gradients, 4)[1, 6].isnan().tolist() == [True, False, True, False]


# --- rescale_ ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_rescale(box: Library, dtype: torch.dtype) -> None:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    memory = [torch.randn(n, generator=generator).to(dtype) for n in (9000, 8, 0, 1, 77)]
    tensors = [*memory[:4], memory[4][1:]]  # the last one is not aligned
    before = [x.clone() for x in tensors]
    sizes = torch.tensor([x.numel() for x in tensors], dtype=torch.int32)
    for output, factor in ((8.0, 1.0), (6.0, 0.75)):
        box.call(
            f"rescale_{str(dtype).removeprefix('torch.')}",
            addresses(tensors),
            sizes,
            len(tensors),
            torch.tensor(output, dtype=exact),
            torch.tensor(8.0, dtype=exact),
        )
        for x, old in zip(tensors, before):
            assert torch.equal(x, (old.to(exact) * factor).to(dtype))
