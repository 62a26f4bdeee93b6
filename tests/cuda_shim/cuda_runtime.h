// SPDX-License-Identifier: Apache-2.0
// Runs CUDA device code on the CPU, so that kernels can be tested on a machine without a GPU.
//
// A .cuh file that includes <cuda_runtime.h> (or cuda_fp16.h, cuda_bf16.h) and no header of torch
// compiles with g++ when this folder comes first on the include path. A test writes a few lines of
// C++, compiles them with tests.cuda_shim.build() and calls them through ctypes:
//
//   #include "my_kernel.cuh"
//   extern "C" void run(const float* x, float* y, int n) {
//     cuda_shim::launch(dim3(4), dim3(256), dynamic_shared_bytes, [=] { my_kernel(x, y, n); });
//   }
//
// What is simulated: the threads of a block are fibers that switch at __syncthreads and at every
// warp operation (_sync functions); the blocks of a grid run one after the other. Shared memory, both
// dynamic (dynamic_shared_memory<T>() of device.cuh) and static (__shared__), is filled with rubbish
// before each block.
// cuda_shim_schedule(seed) chooses the order in which threads and blocks run: 0 forward,
// 1 backward, any other seed at random; a kernel without a race gives one result for all.
// What is reported, as an error that build()'s library raises in Python: a barrier or warp
// operation that some of its threads never reach, a shuffle from a lane that takes no part, lanes
// of one warp at different warp operations with one mask, a block with more shared memory than a GPU
// has (of the static memory counts what the block wrote). With EFFDET_SANITIZE=1 (see __init__.py)
// also accesses out of bounds, misaligned vectors and undefined arithmetic; static shared memory has
// bounds then, and in turn is neither filled nor counted. What is not: blocks
// that wait for each other (they would wait for ever), textures, streams, the fused multiply-adds
// that nvcc forms (use fmaf where the rounding matters), timing.
#pragma once
#include <limits.h>
#include <link.h>
#include <math.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define CUDA_SHIM 1
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// One block runs at a time, so one copy is enough. All variables of a library that belong to a thread
// (of the CPU, which runs all fibers) lie together, so that they can be filled; AddressSanitizer puts
// no bounds around them.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

// --- vector types ---

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define CUDA_SHIM_VECTORS(type, name)                                                  \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                             \
  struct alignas(std::min<size_t>(16, 4 * sizeof(type))) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                     \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CUDA_SHIM_VECTORS(float, float)
CUDA_SHIM_VECTORS(double, double)
CUDA_SHIM_VECTORS(int, int)
CUDA_SHIM_VECTORS(unsigned, uint)
CUDA_SHIM_VECTORS(short, short)
CUDA_SHIM_VECTORS(unsigned short, ushort)
CUDA_SHIM_VECTORS(unsigned char, uchar)
CUDA_SHIM_VECTORS(long long, longlong)
CUDA_SHIM_VECTORS(unsigned long long, ulonglong)
#undef CUDA_SHIM_VECTORS

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

// --- the scheduler ---

namespace cuda_shim {

enum class State { ready, at_barrier, at_warp, finished };

// Small: AddressSanitizer clears its notes about the whole stack at every switch.
constexpr size_t kStackBytes = 128 * 1024;

struct Thread {
  ucontext_t context;
  char* stack = nullptr;
  bool started = false;  // whether `context` waits in run_threads for the next block
  State state = State::finished;
  uint3 index{};
  // Of the operation where the thread waits: its name, the lanes that take part, what this thread
  // gives, and after it what all gave.
  const char* operation = "";
  unsigned mask = 0;
  uint64_t given = 0;
  uint64_t values[32];
  void* sanitizer_stack = nullptr;
};

struct Machine {
  std::vector<std::unique_ptr<Thread>> threads;
  unsigned num_threads = 0;
  Thread* current = nullptr;
  unsigned current_rank = 0;
  ucontext_t scheduler;
  void* sanitizer_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  std::function<void()> kernel;
  std::string error;
  unsigned char* dynamic_memory = nullptr;
  uint64_t schedule = 0;
  std::mt19937_64 generator;
};
static Machine machine;

// Remembers the first mistake of a launch.
inline void fail(const std::string& what) {
  if (machine.error.empty()) machine.error = what;
}

inline std::string place(const Thread& thread) {
  char text[128];
  snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", blockIdx.x, blockIdx.y,
           blockIdx.z, thread.index.x, thread.index.y, thread.index.z);
  return text;
}

inline void to_scheduler() {
  Thread* self = machine.current;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&self->sanitizer_stack, machine.scheduler_stack,
                                 machine.scheduler_stack_bytes);
#endif
  swapcontext(&self->context, &machine.scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(self->sanitizer_stack, &machine.scheduler_stack,
                                  &machine.scheduler_stack_bytes);
#endif
}

// Body of every fiber: one pass a block.
inline void run_threads() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack,
                                  &machine.scheduler_stack_bytes);
#endif
  while (true) {
    machine.kernel();
    machine.current->state = State::finished;
    to_scheduler();
  }
}

inline void resume(unsigned rank) {
  Thread& thread = *machine.threads[rank];
  if (!thread.started) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, run_threads, 0);
    thread.started = true;
  }
  machine.current = &thread;
  machine.current_rank = rank;
  threadIdx = thread.index;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&machine.sanitizer_stack, thread.stack, kStackBytes);
#endif
  swapcontext(&machine.scheduler, &thread.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(machine.sanitizer_stack, nullptr, nullptr);
#endif
}

inline void wait(State state, const char* operation, unsigned mask, uint64_t given) {
  Thread* self = machine.current;
  self->state = state;
  self->operation = operation;
  self->mask = mask;
  self->given = given;
  to_scheduler();
}

// Lets the lanes of a warp go on that have all arrived at one operation.
inline void release_warp(unsigned first) {
  const unsigned last = std::min(first + 32, machine.num_threads);
  for (unsigned rank = first; rank < last; ++rank) {
    const Thread& leader = *machine.threads[rank];
    if (leader.state != State::at_warp) continue;
    bool complete = true;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(leader.mask >> lane & 1) || !complete) continue;
      complete = first + lane < last && machine.threads[first + lane]->state == State::at_warp &&
                 machine.threads[first + lane]->mask == leader.mask;
    }
    if (!complete) continue;
    const unsigned mask = leader.mask;
    uint64_t values[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      const Thread& thread = *machine.threads[first + lane];
      values[lane] = thread.given;
      if (strcmp(thread.operation, leader.operation) != 0) {
        fail(place(thread) + " is at " + thread.operation + ", another lane of its warp at " +
             leader.operation);
      }
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      Thread& thread = *machine.threads[first + lane];
      memcpy(thread.values, values, sizeof values);
      thread.state = State::ready;
    }
  }
}

// Lets the block go on if all its threads are at the barrier.
inline bool release_block() {
  uint64_t count = 0;
  for (unsigned rank = 0; rank < machine.num_threads; ++rank) {
    if (machine.threads[rank]->state != State::at_barrier) return false;
    count += machine.threads[rank]->given;
  }
  for (unsigned rank = 0; rank < machine.num_threads; ++rank) {
    machine.threads[rank]->values[0] = count;
    machine.threads[rank]->state = State::ready;
  }
  return true;
}

// Numbers 0 .. count - 1 in the order that the schedule asks for.
inline std::vector<unsigned> order(unsigned count) {
  std::vector<unsigned> numbers(count);
  for (unsigned i = 0; i < count; ++i) numbers[i] = i;
  if (machine.schedule == 1) {
    std::reverse(numbers.begin(), numbers.end());
  } else if (machine.schedule > 1) {
    std::shuffle(numbers.begin(), numbers.end(), machine.generator);
  }
  return numbers;
}

// Runs the threads until all are finished, or none can go on.
inline void run_block() {
  const unsigned num_warps = (machine.num_threads + 31) / 32;
  for (unsigned rank = 0; rank < machine.num_threads; ++rank) {
    Thread& thread = *machine.threads[rank];
    thread.index = {rank % blockDim.x, rank / blockDim.x % blockDim.y,
                    rank / (blockDim.x * blockDim.y)};
    thread.state = State::ready;
  }
  do {
    for (unsigned warp : order(num_warps)) {
      const unsigned first = warp * 32, lanes = std::min(32u, machine.num_threads - first);
      for (bool moved = true; moved && machine.error.empty();) {
        moved = false;
        for (unsigned lane : order(lanes)) {
          if (machine.threads[first + lane]->state != State::ready) continue;
          resume(first + lane);
          moved = true;
        }
        release_warp(first);
      }
    }
  } while (machine.error.empty() && release_block());
  for (unsigned rank = 0; rank < machine.num_threads && machine.error.empty(); ++rank) {
    const Thread& thread = *machine.threads[rank];
    if (thread.state == State::finished) continue;
    fail(place(thread) + " waits at " + thread.operation + ", which other threads never reach");
  }
}

// Fibers that wait in the middle of a failed kernel never go on; they start anew.
inline void abandon_threads() {
  for (auto& thread : machine.threads) {
    if (thread->state == State::finished) continue;
    thread->started = false;
    thread->state = State::finished;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(thread->stack, kStackBytes);
#endif
  }
}

inline void provide_threads(unsigned count) {
  while (machine.threads.size() < count) {
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) {
      perror("cuda_shim: no memory for the stack of a thread");
      abort();
    }
    mprotect(stack, 4096, PROT_NONE);  // an overflow is a fault, not another thread's rubbish
    machine.threads.push_back(std::make_unique<Thread>());
    machine.threads.back()->stack = static_cast<char*>(stack);
  }
}

// --- shared memory ---

constexpr unsigned char kRubbish = 0xcd;
constexpr size_t kMaxSharedBytes = 227 * 1024;  // as sm_90 has

struct Memory {
  unsigned char* start = nullptr;
  size_t bytes = 0;

  void fill() const { std::fill_n(start, bytes, kRubbish); }
  size_t bytes_written() const {
    return bytes - static_cast<size_t>(std::count(start, start + bytes, kRubbish));
  }
};

#ifdef __SANITIZE_ADDRESS__
inline Memory find_static_memory() { return {}; }
#else
static thread_local volatile unsigned char first_use = 0;

// The thread's variables of the library that this function is in.
inline Memory find_static_memory() {
  first_use = 1;  // they are only provided when one of them is used
  Memory found;
  const auto visit = [](dl_phdr_info* library, size_t, void* result) {
    const uintptr_t here = reinterpret_cast<uintptr_t>(&machine);
    bool is_this = false;
    size_t bytes = 0;
    for (int i = 0; i < library->dlpi_phnum; ++i) {
      const auto& part = library->dlpi_phdr[i];
      const uintptr_t start = library->dlpi_addr + part.p_vaddr;
      if (part.p_type == PT_LOAD) is_this |= here >= start && here - start < part.p_memsz;
      if (part.p_type == PT_TLS) bytes = part.p_memsz;
    }
    if (!is_this) return 0;
    *static_cast<Memory*>(result) = {static_cast<unsigned char*>(library->dlpi_tls_data), bytes};
    return 1;
  };
  dl_iterate_phdr(visit, &found);
  return found;
}
#endif

// Runs `kernel`, a function without arguments, once for each thread of the grid.
template <typename Kernel>
void launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, Kernel kernel) {
  if (!machine.error.empty()) return;
  gridDim = grid;
  blockDim = block;
  machine.num_threads = block.x * block.y * block.z;
  if (machine.num_threads == 0 || machine.num_threads > 1024) {
    return fail("a block must have 1 to 1024 threads");
  }
  const uint64_t num_blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (num_blocks == 0 || grid.y > 65535 || grid.z > 65535 || grid.x > INT_MAX) {
    return fail("the grid is empty or too large");
  }
  provide_threads(machine.num_threads);
  machine.kernel = kernel;
  const Memory static_memory = find_static_memory();
  for (unsigned number : order(static_cast<unsigned>(num_blocks))) {
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
    const size_t allocated = std::max<size_t>(16, (dynamic_shared_bytes + 15) / 16 * 16);
    const std::unique_ptr<unsigned char, decltype(&free)> dynamic_memory(
        static_cast<unsigned char*>(aligned_alloc(16, allocated)), &free);
    machine.dynamic_memory = dynamic_memory.get();
    memset(machine.dynamic_memory, kRubbish, dynamic_shared_bytes);
    static_memory.fill();
    run_block();
    const size_t shared_bytes = dynamic_shared_bytes + static_memory.bytes_written();
    if (shared_bytes > kMaxSharedBytes) {
      fail(std::to_string(shared_bytes) + " bytes of shared memory in a block, more than " +
           std::to_string(kMaxSharedBytes));
    }
    if (!machine.error.empty()) return abandon_threads();
  }
}

// The calling thread's view of one warp operation: what each lane of `mask` gave.
inline const uint64_t* exchange(const char* operation, unsigned mask, uint64_t given) {
  const unsigned lane = machine.current_rank % 32;
  if (!(mask >> lane & 1)) {
    fail(place(*machine.current) + " calls " + operation + " with a mask that leaves it out");
  }
  wait(State::at_warp, operation, mask, given);
  return machine.current->values;
}

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "at most 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

template <typename T>
T of_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
T shuffle(const char* operation, unsigned mask, T value, unsigned source) {
  const uint64_t* values = exchange(operation, mask, to_bits(value));
  if (!(mask >> source & 1)) {
    fail(place(*machine.current) + " reads by " + operation + " from a lane that takes no part");
  }
  return of_bits<T>(values[source]);
}

template <typename T, typename Combine>
T reduce(const char* operation, unsigned mask, T value, Combine combine) {
  const uint64_t* values = exchange(operation, mask, to_bits(value));
  bool first = true;
  T result{};
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const T other = of_bits<T>(values[lane]);
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}

inline unsigned lane() { return machine.current_rank % 32; }

}  // namespace cuda_shim

// The first mistake since the last call, or null.
extern "C" const char* cuda_shim_error() {
  static std::string error;
  error.swap(cuda_shim::machine.error);
  cuda_shim::machine.error.clear();
  return error.empty() ? nullptr : error.c_str();
}

extern "C" void cuda_shim_schedule(uint64_t seed) {
  cuda_shim::machine.schedule = seed;
  cuda_shim::machine.generator.seed(seed);
}

// --- barriers and warp operations ---

inline void __syncthreads() {
  cuda_shim::wait(cuda_shim::State::at_barrier, "__syncthreads", 0, 0);
}
inline int __syncthreads_count(int predicate) {
  cuda_shim::wait(cuda_shim::State::at_barrier, "__syncthreads_count", 0, predicate != 0);
  return static_cast<int>(cuda_shim::machine.current->values[0]);
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline int __syncthreads_and(int predicate) {
  return __syncthreads_count(predicate) == static_cast<int>(cuda_shim::machine.num_threads);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_shim::exchange("__syncwarp", mask, 0); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned base = cuda_shim::lane() & ~(width - 1u);
  return cuda_shim::shuffle("__shfl_sync", mask, value, base + (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = cuda_shim::lane(), place = lane & (width - 1);
  return cuda_shim::shuffle("__shfl_up_sync", mask, value, place >= delta ? lane - delta : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = cuda_shim::lane(), place = lane & (width - 1);
  const bool inside = place + delta < unsigned(width);
  return cuda_shim::shuffle("__shfl_down_sync", mask, value, inside ? lane + delta : lane);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const unsigned lane = cuda_shim::lane(), other = lane ^ unsigned(lane_mask);
  const bool inside = (other & ~(width - 1u)) <= (lane & ~(width - 1u));
  return cuda_shim::shuffle("__shfl_xor_sync", mask, value, inside ? other : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* values = cuda_shim::exchange("__ballot_sync", mask, predicate != 0);
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) result |= unsigned(values[lane]) << lane;
  }
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t* values = cuda_shim::exchange("__match_any_sync", mask, cuda_shim::to_bits(value));
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1 && values[lane] == cuda_shim::to_bits(value)) result |= 1u << lane;
  }
  return result;
}

#define CUDA_SHIM_REDUCE(name, type, expression)                                 \
  inline type __reduce_##name##_sync(unsigned mask, type value) {                \
    return cuda_shim::reduce("__reduce_" #name "_sync", mask, value,             \
                             [](type a, type b) -> type { return expression; }); \
  }
CUDA_SHIM_REDUCE(min, int, std::min(a, b))
CUDA_SHIM_REDUCE(max, int, std::max(a, b))
CUDA_SHIM_REDUCE(add, int, int(unsigned(a) + unsigned(b)))
CUDA_SHIM_REDUCE(min, unsigned, std::min(a, b))
CUDA_SHIM_REDUCE(max, unsigned, std::max(a, b))
CUDA_SHIM_REDUCE(add, unsigned, a + b)
CUDA_SHIM_REDUCE(and, unsigned, a& b)
CUDA_SHIM_REDUCE(or, unsigned, a | b)
CUDA_SHIM_REDUCE(xor, unsigned, a ^ b)
#undef CUDA_SHIM_REDUCE

// --- memory ---

inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* at) {
  return *at;
}
template <typename T>
T __ldcs(const T* at) {
  return *at;
}
template <typename T>
T __ldcg(const T* at) {
  return *at;
}
template <typename T>
void __stcs(T* at, T value) {
  *at = value;
}
template <typename T>
void __stcg(T* at, T value) {
  *at = value;
}

#define CUDA_SHIM_ATOMIC(name, expression)         \
  template <typename T>                            \
  T name(T* at, std::enable_if_t<true, T> given) { \
    const T before = *at;                          \
    *at = expression;                              \
    return before;                                 \
  }
CUDA_SHIM_ATOMIC(atomicAdd, T(before + given))
CUDA_SHIM_ATOMIC(atomicSub, T(before - given))
CUDA_SHIM_ATOMIC(atomicMin, std::min(before, given))
CUDA_SHIM_ATOMIC(atomicMax, std::max(before, given))
CUDA_SHIM_ATOMIC(atomicExch, given)
CUDA_SHIM_ATOMIC(atomicAnd, T(before& given))
CUDA_SHIM_ATOMIC(atomicOr, T(before | given))
CUDA_SHIM_ATOMIC(atomicXor, T(before ^ given))
CUDA_SHIM_ATOMIC(atomicInc, before >= given ? T(0) : T(before + 1))
#undef CUDA_SHIM_ATOMIC
template <typename T>
T atomicCAS(T* at, std::enable_if_t<true, T> expected, std::enable_if_t<true, T> desired) {
  const T before = *at;
  if (before == expected) *at = desired;
  return before;
}

// --- arithmetic ---

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point<T>::value) return std::fmin(T(a), T(b));
  return T(a) < T(b) ? T(a) : T(b);
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point<T>::value) return std::fmax(T(a), T(b));
  return T(a) > T(b) ? T(a) : T(b);
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1) << (31 - i);
  return result;
}

inline float __uint_as_float(unsigned bits) { return cuda_shim::of_bits<float>(bits); }
inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }
inline unsigned __float_as_uint(float x) { return unsigned(cuda_shim::to_bits(x)); }
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline double __longlong_as_double(long long bits) {
  return cuda_shim::of_bits<double>(uint64_t(bits));
}
inline long long __double_as_longlong(double x) { return (long long)cuda_shim::to_bits(x); }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1 / x; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0), 1); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }

// --- 16-bit numbers ---

namespace cuda_shim {

inline uint16_t half_of_float(float value) {
  const uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return sign | 0x7fff;  // what the hardware makes of any NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;
  // Below 2^-14 the result is subnormal: a multiple of 2^-24, rounded to even by the addition.
  if (magnitude < 0x38800000u) {
    return sign | uint16_t(__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u);
  }
  return sign | uint16_t((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13);
}

inline float float_of_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.f : 1.f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? ldexpf(1024.f + fraction, exponent - 25) : ldexpf(fraction, -24));
}

inline uint16_t bfloat16_of_float(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace cuda_shim

struct alignas(2) __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(2) __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __half2float(__half x) { return cuda_shim::float_of_half(x.bits); }
inline __half __float2half_rn(float x) { return {cuda_shim::half_of_float(x)}; }
inline __half __float2half(float x) { return __float2half_rn(x); }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {cuda_shim::bfloat16_of_float(x)}; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) {
  return {__bfloat162float(v.x), __bfloat162float(v.y)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
