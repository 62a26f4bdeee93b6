# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the focal loss, run on the CPU, against plain PyTorch."""

import ctypes
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.levels import DTYPES, flatten_levels
from effdet.structures import BACKGROUND, IGNORE
from tests.cuda_shim import Library, addresses, build

SOURCE = r"""
#include "focal_loss.cuh"
#include "launcher.h"

using namespace effdet;

struct Settings {
  double alpha, gamma, smoothing;
};

template <typename scalar_t>
void run(bool channels_last, int num_levels, const int* shapes, void** logits, void** gradients,
         const int* targets, int batch, int num_anchors, int num_classes, const void* normalizer,
         const void* grad_scale, const Settings& settings, void* loss) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  const Layout layout = channels_last ? Layout::channels_last : Layout::contiguous;
  const auto empty = focal_arguments<compute_t>(
      targets, num_anchors, num_classes, static_cast<const compute_t*>(normalizer),
      static_cast<const compute_t*>(grad_scale), settings.alpha, settings.gamma,
      settings.smoothing);
  FocalArguments<compute_t> by_layout[2] = {empty, empty};
  auto& f = by_layout[static_cast<int>(layout)];
  int64_t first_anchor = 0;
  for (int l = 0; l < num_levels; ++l) {
    const unsigned positions = shapes[2 * l], anchors = shapes[2 * l + 1];
    const LevelShape shape{first_anchor, positions * anchors * num_classes, positions, anchors};
    add_focal_level(f, layout, Storage<scalar_t>::kVector, shape, logits[l], gradients[l], batch);
    first_anchor += positions * anchors;
  }
  std::vector<double> partial_sums(f.levels.num_tiles);
  launch_focal_loss<scalar_t>(cuda_shim::Launcher{}, by_layout, settings.gamma,
                              settings.smoothing, partial_sums.data(),
                              static_cast<compute_t*>(loss));
}

extern "C" {
#define EFFDET_TEST(name, type)                                                                   \
  void focal_##name(int channels_last, int num_levels, const int* shapes, void** logits,          \
                    void** gradients, const int* targets, int batch, int num_anchors,             \
                    int num_classes, const void* normalizer, const void* grad_scale,              \
                    double alpha, double gamma, double smoothing, void* loss) {                   \
    run<type>(channels_last, num_levels, shapes, logits, gradients, targets, batch, num_anchors,  \
              num_classes, normalizer, grad_scale, {alpha, gamma, smoothing}, loss);              \
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
# Levels that no vector divides, images that do not start at 16 bytes, levels of a single place.
SHAPES = [(3, 8, 8), (3, 5, 3), (3, 1, 1), (3, 2, 1)]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("focal"))


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
    kernels: Library,
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
    kernels.call(
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
    x = flatten_levels(levels, num_classes).double()
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
    gradient = flatten_levels(gradients, num_classes)
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("num_classes", [1, 3, 8, 20, 33])
@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_focal_loss(
    kernels: Library, dtype: torch.dtype, channels_last: bool, num_classes: int, gamma: float
) -> None:
    levels, targets = example(dtype, channels_last, num_classes, SHAPES)
    result = kernel_result(kernels, levels, targets, num_classes, channels_last, gamma, 0.0)
    expected = exact_result(levels, targets, num_classes, gamma, 0.0)
    assert_equal(result, expected, num_classes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.5, 2.0, 3.7])
def test_focal_loss_with_smoothing_and_scale(
    kernels: Library, dtype: torch.dtype, channels_last: bool, gamma: float
) -> None:
    levels, targets = example(dtype, channels_last, 11, [(2, 4, 4), (2, 3, 3)])
    settings = {"normalizer": 3.0, "grad_scale": 5.0}
    result = kernel_result(kernels, levels, targets, 11, channels_last, gamma, 0.1, **settings)
    assert_equal(result, exact_result(levels, targets, 11, gamma, 0.1, **settings), 11)


@pytest.mark.parametrize("channels_last", [True, False])
def test_focal_loss_of_several_tiles_and_without_gradient(
    kernels: Library, channels_last: bool
) -> None:
    levels, targets = example(torch.float16, channels_last, 90, [(9, 16, 16), (9, 8, 8)], batch=2)
    loss, gradients = kernel_result(kernels, levels, targets, 90, channels_last, 1.5, 0.0)
    assert_equal((loss, gradients), exact_result(levels, targets, 90, 1.5, 0.0), 90)
    alone, untouched = kernel_result(
        kernels, levels, targets, 90, channels_last, 1.5, 0.0, need_grad=False
    )
    assert torch.equal(alone, loss)
    assert all(x.isnan().all() for x in untouched)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_positive_at_every_place_of_a_vector(
    kernels: Library, dtype: torch.dtype, channels_last: bool
) -> None:
    for num_classes in (8, 9, 17):
        levels, targets = example(dtype, channels_last, num_classes, [(2, 8, num_classes)], 1)
        targets.fill_(BACKGROUND)
        diagonal = torch.arange(targets.shape[1], dtype=torch.int32)
        targets[0, ::3] = (diagonal % num_classes)[::3]
        targets[0, 4::7] = IGNORE
        result = kernel_result(kernels, levels, targets, num_classes, channels_last, 2.0, 0.0)
        assert_equal(result, exact_result(levels, targets, num_classes, 2.0, 0.0), num_classes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
def test_ignored_anchors_are_zero_whatever_their_logits(
    kernels: Library, dtype: torch.dtype, channels_last: bool
) -> None:
    levels, targets = example(dtype, channels_last, 13, SHAPES)
    (clean, _) = kernel_result(kernels, levels, targets, 13, channels_last, 1.5, 0.0)
    first = 0
    for x in levels:
        anchors, positions = x.shape[1] // 13, x.shape[2] * x.shape[3]
        part = targets[:, first : first + anchors * positions] == IGNORE
        part = part.view(x.shape[0], *x.shape[2:], anchors).permute(
            0, 3, 1, 2
        )  # [B, anchors, H, W]
        x.masked_fill_(part.repeat_interleave(13, 1), torch.nan)
        first += anchors * positions
    loss, gradients = kernel_result(kernels, levels, targets, 13, channels_last, 1.5, 0.0)
    assert torch.equal(loss, clean)
    assert (flatten_levels(gradients, 13)[targets == IGNORE] == 0).all()
    everything = torch.full_like(targets, IGNORE)
    loss, gradients = kernel_result(kernels, levels, everything, 13, channels_last, 1.5, 0.0)
    assert loss.item() == 0
    assert (flatten_levels(gradients, 13) == 0).all()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("bad", [13, 2**31 - 1, -3, -(2**31)])
def test_target_out_of_range_is_nan_in_its_row_only(
    kernels: Library, channels_last: bool, bad: int
) -> None:
    levels, targets = example(torch.float32, channels_last, 13, SHAPES)
    targets[1, 5] = bad
    loss, gradients = kernel_result(kernels, levels, targets, 13, channels_last, 1.5, 0.0)
    assert loss.isnan()
    is_nan = flatten_levels(gradients, 13).isnan()
    assert is_nan[1, 5].all()
    is_nan[1, 5] = False
    assert not is_nan.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0, 3.0])
def test_extreme_logits(
    kernels: Library, dtype: torch.dtype, channels_last: bool, gamma: float
) -> None:
    values = torch.tensor([-6e4, 6e4, -100.0, 100.0, -20.0, 20.0, -0.0, 0.0], dtype=dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    level = values.repeat(9, 1).T.expand(1, 8, 9).reshape(1, 8, 3, 3).contiguous(
        memory_format=layout
    )  # fmt: skip
    targets = torch.arange(-1, 8, dtype=torch.int32)[None]
    result = kernel_result(kernels, [level], targets, 8, channels_last, gamma, 0.1)
    assert_equal(result, exact_result([level], targets, 8, gamma, 0.1), 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.5, 2.0, 3.7])
def test_infinite_logits_of_the_right_answer_cost_nothing(
    kernels: Library, dtype: torch.dtype, channels_last: bool, gamma: float
) -> None:
    """A class masked with -inf, and +inf where the class is present; without smoothing."""
    levels, targets = example(dtype, channels_last, 11, SHAPES)
    targets[targets == 3] = BACKGROUND
    first = 0
    for x in levels:
        batch, anchors, places = x.shape[0], x.shape[1] // 11, x.shape[2] * x.shape[3]
        part = targets[:, first : first + places * anchors].view(batch, *x.shape[2:], anchors)
        present = part[..., None] == torch.arange(11)
        values = x.view(batch, anchors, 11, *x.shape[2:])
        values.masked_fill_(present.permute(0, 3, 4, 1, 2), torch.inf)
        values[:, :, 3] = -torch.inf
        first += places * anchors
    loss, gradients = kernel_result(kernels, levels, targets, 11, channels_last, gamma, 0.0)
    finite = [x.clamp(-2e4, 2e4) for x in levels]
    assert_equal((loss, gradients), exact_result(finite, targets, 11, gamma, 0.0), 11)
    for x, gradient in zip(levels, gradients, strict=True):
        assert (gradient[x.isinf()] == 0).all()


def test_nan_logit_gives_nan(kernels: Library) -> None:
    for channels_last in (True, False):
        levels, targets = example(torch.float16, channels_last, 20, SHAPES)
        targets.fill_(BACKGROUND)
        levels[0][0, 3, 2, 2] = torch.nan
        loss, gradients = kernel_result(kernels, levels, targets, 20, channels_last, 1.5, 0.0)
        assert loss.isnan()
        assert sum(int(x.isnan().sum()) for x in gradients) == 1


def test_empty_levels_and_batches(kernels: Library) -> None:
    for shapes, batch in (([(3, 0, 4)], 2), ([(3, 4, 4)], 0), ([(3, 0, 0), (3, 2, 2)], 2)):
        levels, targets = example(torch.float32, True, 5, shapes, batch)
        loss, gradients = kernel_result(kernels, levels, targets, 5, True, 1.5, 0.0)
        assert_equal((loss, gradients), exact_result(levels, targets, 5, 1.5, 0.0), 5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_any_schedule_gives_the_same_bits(kernels: Library, channels_last: bool) -> None:
    levels, targets = example(torch.bfloat16, channels_last, 20, [(9, 16, 16), (9, 3, 3)])
    results = []
    for seed in (0, 1, 7):
        kernels.schedule(seed)
        results.append(kernel_result(kernels, levels, targets, 20, channels_last, 1.5, 0.0))
    kernels.schedule(0)
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert all(map(torch.equal, gradients, results[0][1]))


def test_division_is_exact(kernels: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    for divisor in (1, 2, 3, 7, 8, 80, 90, 91, 641, 65537, 2**20 + 1, 2**26 - 1):
        random = torch.randint(2**31, (20_000,), generator=generator)
        multiples = random // divisor * divisor
        numerators = torch.cat((random, multiples, (multiples - 1).clamp(min=0)))
        numerators = torch.cat((numerators, torch.tensor([0, 2**31 - 1]))).to(torch.int32)
        result = torch.empty_like(numerators)
        kernels.call("quotients", ctypes.c_uint32(divisor), numerators, result, numerators.numel())
        assert torch.equal(result, numerators // divisor)
