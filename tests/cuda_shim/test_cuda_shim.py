# SPDX-License-Identifier: Apache-2.0
"""The simulated machine itself: grids, barriers, warp operations, 16-bit types, mistakes."""

import time

import pytest
import torch

from tests.cuda_shim import IS_SANITIZED, KernelError, Library, build

SOURCE = r"""
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device.cuh"

__global__ void __launch_bounds__(1024) reverse(const int* x, int* y, int n) {
  __shared__ int tile[1024];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x] = i < n ? x[i] : 0;
  __syncthreads();
  if (i < n) y[i] = tile[blockDim.x - 1 - threadIdx.x];
}
extern "C" void run_reverse(const int* x, int* y, int n) {
  cuda_shim::launch(dim3(n / 1024), dim3(1024), 0, [=] { reverse(x, y, n); });
}

__global__ void many_barriers(int* count, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    if (threadIdx.x == unsigned(i) % blockDim.x) *count += 1;
    __syncthreads();
  }
}
extern "C" void run_barriers(int* count, int rounds) {
  cuda_shim::launch(dim3(1), dim3(1024), 0, [=] { many_barriers(count, rounds); });
}

__global__ void warp_operations(unsigned* out) {
  const unsigned lane = threadIdx.x % 32, all = ~0u;
  unsigned* row = out + 16 * threadIdx.x;
  row[0] = __shfl_sync(all, lane * 10, 3);
  row[1] = __shfl_xor_sync(all, lane, 5);
  row[2] = __shfl_down_sync(all, lane, 4);
  row[3] = __shfl_up_sync(all, lane, 4);
  row[4] = __ballot_sync(all, lane % 3 == 0);
  row[5] = __reduce_add_sync(all, lane);
  row[6] = unsigned(__reduce_min_sync(all, int(lane) - 7));
  row[7] = __match_any_sync(all, lane / 8);
  row[8] = __any_sync(all, lane == 31);
  row[9] = 0;
  if (lane < 16) row[9] = __reduce_max_sync(0xffffu, lane);  // half of the warp
  row[10] = __shfl_sync(all, lane, 1, 8);
  row[11] = unsigned(__syncthreads_count(threadIdx.x % 2 == 0));
  row[12] = atomicAdd(out + 16 * 64, 1u);
  const double wide = __shfl_xor_sync(all, double(lane) + 0.5, 1);
  row[13] = unsigned(2 * wide);
}
extern "C" void run_warp(unsigned* out) {
  cuda_shim::launch(dim3(1), dim3(64), 0, [=] { warp_operations(out); });
}

__global__ void lonely_barrier(int last) {
  if (int(threadIdx.x) < last) __syncthreads();
}
extern "C" void run_lonely(int last) {
  cuda_shim::launch(dim3(2), dim3(64), 0, [=] { lonely_barrier(last); });
}
__global__ void lonely_shuffle(int* out) {
  out[threadIdx.x] = threadIdx.x < 7 ? __shfl_sync(~0u, 1, 0) : 0;
}
extern "C" void run_lonely_shuffle(int* out) {
  cuda_shim::launch(dim3(1), dim3(32), 0, [=] { lonely_shuffle(out); });
}
__global__ void race(int* out) {
  __shared__ int tile[64];
  tile[threadIdx.x] = 1 + int(threadIdx.x);
  out[threadIdx.x] = tile[(threadIdx.x + 1) % 64];  // the barrier is missing
}
extern "C" void run_race(int* out) {
  cuda_shim::launch(dim3(1), dim3(64), 0, [=] { race(out); });
}

__global__ void sum_dynamic(int* out) {
  int* values = effdet::dynamic_shared_memory<int>();
  values[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < blockDim.x; ++i) out[blockIdx.x] += values[i];
  }
}
extern "C" void run_dynamic(int* out) {
  cuda_shim::launch(dim3(3), dim3(96), 96 * sizeof(int), [=] { sum_dynamic(out); });
}

// Reads static shared memory before it writes it.
template <typename T>
__global__ void keep_old(unsigned* out) {
  __shared__ T old[32];
  __shared__ unsigned char flag;
  out[blockIdx.x * 32 + threadIdx.x] = unsigned(old[threadIdx.x]) ^ flag;
  old[threadIdx.x] = 5;
  __syncthreads();
  if (threadIdx.x == 0) flag = 1;
}
extern "C" void run_old(unsigned* out) {
  cuda_shim::launch(dim3(2), dim3(32), 0, [=] { keep_old<unsigned>(out); });
}
__global__ void use_shared() {
  __shared__ volatile char values[32 * 1024];
  for (unsigned i = threadIdx.x; i < sizeof values; i += blockDim.x) values[i] = 1;
}
extern "C" void run_shared(int dynamic_bytes) {
  cuda_shim::launch(dim3(1), dim3(32), dynamic_bytes, [=] { use_shared(); });
}

extern "C" void convert(const float* x, uint16_t* half, uint16_t* bfloat16, float* back, int n) {
  for (int i = 0; i < n; ++i) {
    half[i] = __float2half_rn(x[i]).bits;
    bfloat16[i] = __float2bfloat16_rn(x[i]).bits;
    back[i] = __half2float(__half{half[i]});
  }
}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("shim"))


def test_grid_and_shared_memory(machine: Library) -> None:
    x = torch.arange(3072, dtype=torch.int32)
    y = torch.empty_like(x)
    machine.call("run_reverse", x, y, 3072)
    assert torch.equal(y, x.view(3, 1024).flip(1).flatten())


def test_dynamic_shared_memory(machine: Library) -> None:
    out = torch.zeros(3, dtype=torch.int32)
    machine.call("run_dynamic", out)
    assert out.tolist() == [96, 96, 96]


@pytest.mark.skipif(IS_SANITIZED, reason="static shared memory has bounds instead")
def test_static_shared_memory_is_rubbish_at_first(machine: Library) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    machine.call("run_old", out)
    assert (out == (0xCDCDCDCD ^ 0xCD) - 2**32).all()


def test_shared_memory_is_limited(machine: Library) -> None:
    machine.call("run_shared", 195 * 1024)
    with pytest.raises(KernelError, match="233472 bytes of shared memory in a block"):
        machine.call("run_shared", (228 if IS_SANITIZED else 196) * 1024)
    machine.call("run_shared", 0)


def test_hundreds_of_barriers_take_seconds_at_most(machine: Library) -> None:
    count = torch.zeros(1, dtype=torch.int32)
    start = time.process_time()
    machine.call("run_barriers", count, 300)
    assert count.item() == 300
    assert time.process_time() - start < 10


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_warp_operations(machine: Library, seed: int) -> None:
    out = torch.zeros(16 * 65, dtype=torch.int32)
    machine.schedule(seed)
    machine.call("run_warp", out)
    machine.schedule(0)
    rows = out[: 16 * 64].view(64, 16)
    for thread, row in enumerate(rows.tolist()):
        lane = thread % 32
        assert row[:2] == [30, lane ^ 5]
        assert row[2] == (lane + 4 if lane < 28 else lane)
        assert row[3] == (lane - 4 if lane >= 4 else lane)
        assert row[4] == sum(1 << i for i in range(0, 32, 3))
        assert row[5:7] == [496, -7]
        assert row[7] & 0xFFFFFFFF == 0xFF << (lane // 8 * 8)
        assert row[8:12] == [1, 15 if lane < 16 else 0, lane // 8 * 8 + 1, 32]
        assert row[13] == 2 * (lane ^ 1) + 1
    assert sorted(rows[:, 12].tolist()) == list(range(64))


def test_missing_threads_are_reported(machine: Library) -> None:
    with pytest.raises(KernelError, match=r"thread \(0, 0, 0\) waits at __syncthreads"):
        machine.call("run_lonely", 63)
    with pytest.raises(KernelError, match="waits at __shfl_sync"):
        machine.call("run_lonely_shuffle", torch.zeros(32, dtype=torch.int32))
    machine.call("run_lonely", 64)  # and the machine still works


def test_order_of_threads_shows_a_race(machine: Library) -> None:
    results = []
    for seed in (0, 1):
        out = torch.zeros(64, dtype=torch.int32)
        machine.schedule(seed)
        machine.call("run_race", out)
        results.append(out)
    machine.schedule(0)
    assert not torch.equal(*results)


def test_16_bit_types_round_as_torch(machine: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator).to(torch.int32)
    small = torch.randn(200_000, generator=generator) * 2.0 ** torch.randint(
        -26, -8, (200_000,), generator=generator
    )
    x = torch.cat((bits.view(torch.float32), small, torch.randn(100_000, generator=generator)))
    x = torch.cat((x[~x.isnan()], torch.tensor([65504.0, 65519.99, 65520.0, torch.inf, -0.0])))
    half, bfloat16 = (torch.empty(x.shape, dtype=torch.int16) for _ in range(2))
    back = torch.empty_like(x)
    machine.call("convert", x, half, bfloat16, back, x.numel())
    assert torch.equal(half.view(torch.float16), x.half())
    assert torch.equal(bfloat16.view(torch.bfloat16), x.bfloat16())
    assert torch.equal(back, x.half().float())
