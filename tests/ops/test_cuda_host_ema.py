# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernel of ema_update_, run on the CPU, against the definition of the operator."""

import ctypes
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effdet.ops.ema import reference
from tests.cuda_shim import Library, build

KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3, torch.int64: 4}

SOURCE = r"""
#include "ema.cuh"
#include "launcher.h"

using namespace effdet;

template <int capacity>
static void run(const int64_t* rows, int n, unsigned long long* updates, const float* found_inf,
                double decay, int* launches) {
  std::vector<EmaPair> pairs;
  for (int i = 0; i < n; ++i, rows += 5)
    pairs.push_back({static_cast<EmaKind>(rows[0]), reinterpret_cast<char*>(rows[1]),
                     reinterpret_cast<const char*>(rows[2]), rows[3], rows[4]});
  EmaTables<capacity> tables(pairs.data(), pairs.data() + n);
  *launches = static_cast<int>(tables.tables().size());
  launch_ema_update(cuda_shim::Launcher{}, tables, updates, found_inf, decay);
}
extern "C" void run_large(const int64_t* rows, int n, unsigned long long* updates,
                          const float* found_inf, double decay, int* launches) {
  run<kEmaCapacity>(rows, n, updates, found_inf, decay, launches);
}
extern "C" void run_small(const int64_t* rows, int n, unsigned long long* updates,
                          const float* found_inf, double decay, int* launches) {
  run<3>(rows, n, updates, found_inf, decay, launches);
}
extern "C" int bytes_of_parameters() { return sizeof(EmaTable<kEmaCapacity>) + 32; }
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("ema"))


def update(
    kernels: Library,
    averages: list[Tensor],
    values: list[Tensor],
    updates: Tensor,
    found_inf: Tensor | None = None,
    decay: float = 0.999,
    *,
    function: str = "run_large",
) -> int:
    """Run the kernel on contiguous tensors and return the number of launches."""
    rows = [
        [KINDS[v.dtype], a.data_ptr(), v.data_ptr(), a.numel(), a.numel() * a.element_size()]
        for a, v in zip(averages, values, strict=True)
        if a.numel()
    ]
    rows.sort(key=lambda row: row[1])
    launches = torch.zeros(1, dtype=torch.int32)
    table = torch.tensor(rows or [[0] * 5])
    skip = ctypes.c_void_p(None) if found_inf is None else found_inf
    kernels.call(function, table, len(rows), updates, skip, ctypes.c_double(decay), launches)
    return int(launches)


def model(
    sizes: tuple[int, ...], dtype: torch.dtype, alignment: int = 16, offset: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Averages in one buffer, each at a multiple of ``alignment`` elements, and values."""
    generator = torch.Generator().manual_seed(0)
    average = dtype if dtype in (torch.float64, torch.int64) else torch.float32
    starts, end = [], offset
    for size in sizes:
        starts.append(end)
        end += -(-size // alignment) * alignment
    buffer = (100 * torch.randn(end, generator=generator)).to(average)
    values = [(100 * torch.randn(size + offset, generator=generator)).to(dtype) for size in sizes]
    averages = [buffer[start : start + size] for start, size in zip(starts, sizes)]
    return averages, [value[offset:] for value in values]


def check(kernels: Library, averages: list[Tensor], values: list[Tensor], **options: str) -> int:
    expected = [average.clone() for average in averages]
    updates, counted = torch.tensor([20, 0]), torch.tensor([20, 0])
    launches = update(kernels, averages, values, updates, **options)
    reference(expected, values, counted, None, 0.999)
    assert all(torch.equal(a, b) for a, b in zip(averages, expected))
    assert torch.equal(updates, counted)
    return launches


SIZES = (1, 40, 3, 6000, 64, 17, 4096, 0, 9, 1023)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("alignment", [1, 4, 16])
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_equals_the_definition_to_the_bit(
    kernels: Library, dtype: torch.dtype, alignment: int, offset: int
) -> None:
    averages, values = model(SIZES, dtype, alignment, offset)
    check(kernels, averages, values)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_all_dtypes_in_one_launch_in_any_order_of_threads(kernels: Library, seed: int) -> None:
    averages, values = [], []
    for dtype in KINDS:
        more = model(SIZES, dtype)
        averages += more[0]
        values += more[1]
    kernels.schedule(seed)
    launches = check(kernels, averages, values)
    kernels.schedule(0)
    assert launches == 1


def test_nothing_around_the_averages_is_touched(kernels: Library) -> None:
    averages, values = model(SIZES, torch.float32)
    buffer = averages[0]._base
    assert buffer is not None
    between = torch.ones(buffer.numel(), dtype=torch.bool)
    for average in averages:
        start = average.storage_offset()
        between[start : start + average.numel()] = False
    before = buffer.clone()
    check(kernels, averages, values)
    assert between.any()
    assert torch.equal(buffer[between], before[between])


def test_more_pairs_than_fit_take_more_launches_and_count_once(kernels: Library) -> None:
    averages, values = model(SIZES, torch.float32)
    assert check(kernels, averages, values, function="run_small") == 3  # 9 pairs, 3 a launch


def test_averages_all_over_the_memory_take_more_launches(kernels: Library) -> None:
    buffer = torch.zeros(20 * 10_000)
    averages = [buffer[i * 10_000 : i * 10_000 + 5] for i in range(20)]
    values = [torch.randn(5) for _ in averages]
    assert check(kernels, averages, values) == 3  # 8 regions a launch


def test_gaps_within_a_region_are_small(kernels: Library) -> None:
    buffer = torch.zeros(4000)
    values = [torch.randn(4), torch.randn(4)]
    for start in (1024, 1028, 1032):  # floats; the gap is below, at and above the limit
        check(kernels, [buffer[:4], buffer[start : start + 4]], values)


def test_nothing_to_average_is_counted(kernels: Library) -> None:
    updates = torch.tensor([5, 0])
    assert update(kernels, [], [], updates) == 1
    assert updates.tolist() == [6, 0]


@pytest.mark.parametrize("found_inf", [1.0, float("nan")])
def test_a_skipped_step_changes_nothing(kernels: Library, found_inf: float) -> None:
    averages, values = model(SIZES, torch.float32)
    before, updates = [a.clone() for a in averages], torch.tensor([5, 0])
    update(kernels, averages, values, updates, torch.tensor([found_inf]))
    assert all(torch.equal(a, b) for a, b in zip(averages, before))
    assert updates.tolist() == [5, 0]
    update(kernels, averages, values, updates, torch.zeros(1))
    assert updates.tolist() == [6, 0]


def test_warm_up_and_the_ends_of_the_decay(kernels: Library) -> None:
    for done in (0, 8, 9, -3, 10**12):
        for decay in (0.0, 0.3, 0.9998, 1.0):
            averages, values = model((37,), torch.float32)
            expected = [averages[0].clone()]
            update(kernels, averages, values, torch.tensor([done, 0]), decay=decay)
            reference(expected, values, torch.tensor([done, 0]), None, decay)
            assert torch.equal(averages[0], expected[0])


def test_the_table_fits_into_the_parameters_of_a_kernel(kernels: Library) -> None:
    assert kernels._library.bytes_of_parameters() <= 32_764


def test_a_d7_fits_into_one_launch(kernels: Library, tmp_path: Path) -> None:
    averages, values = model((3,) * 1565, torch.float32)
    counters = model((1,) * 253, torch.int64)
    assert check(kernels, averages + counters[0], values + counters[1]) == 1
