#include <ucontext.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace emulator {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;
int n_processors = 1;
std::atomic<long> n_launches{0};

// Calls by their kinds, of which the n-th from now on fails, and what is not given back.
enum Kind { device_memory, pinned_memory, stream, copy, kKinds };
std::atomic<int> fails_in[kKinds];
std::atomic<long> n_held{0};

bool fails(Kind kind) { return fails_in[kind] > 0 && --fails_in[kind] == 0; }

cudaError_t allocate(Kind kind, void** out, std::size_t n_bytes) {
  *out = nullptr;
  if (fails(kind)) return cudaErrorMemoryAllocation;
  *out = std::aligned_alloc(256, (n_bytes + 255) / 256 * 256 + 256);
  if (*out == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*out, 0xa5, n_bytes);
  ++n_held;
  return cudaSuccess;
}

cudaError_t release(void* p) {
  n_held -= p != nullptr;
  std::free(p);
  return cudaSuccess;
}

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool done;
};

struct Scheduler {
  std::vector<Fiber> fibers;
  ucontext_t here;
  const std::function<void()>* kernel;

  static void start();

  // All fibers run up to where they meet, and again from there, until all are done. Odd rounds go
  // backwards: nothing may depend on who comes first.
  void run_block(unsigned n_threads) {
    if (fibers.size() < n_threads) fibers.resize(n_threads);
    for (unsigned i = 0; i < n_threads; ++i) {
      Fiber& fiber = fibers[i];
      fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &here;
      makecontext(&fiber.context, &Scheduler::start, 0);
    }
    bool any_left = true;
    for (int round = 0; any_left; ++round) {
      unsigned n_done = 0;
      for (unsigned k = 0; k < n_threads; ++k) {
        const unsigned i = round % 2 == 0 ? k : n_threads - 1 - k;
        if (!fibers[i].done) {
          threadIdx.x = i;
          swapcontext(&here, &fibers[i].context);
        }
        n_done += fibers[i].done;
      }
      any_left = n_done < n_threads;
      // On a device a thread that has returned never meets the others.
      if (any_left && n_done > 0) std::abort();
    }
  }
};

thread_local Scheduler scheduler;

void Scheduler::start() {
  (*scheduler.kernel)();
  scheduler.fibers[threadIdx.x].done = true;
}

}  // namespace

void run(dim3 n_blocks, dim3 n_threads, const std::function<void()>& kernel) {
  ++n_launches;
  scheduler.kernel = &kernel;
  gridDim = n_blocks;
  blockDim = n_threads;
  for (unsigned left = n_blocks.x; left > 0; --left) {
    blockIdx.x = left - 1;
    scheduler.run_block(n_threads.x);
  }
}

}  // namespace emulator

void __syncthreads() {
  using emulator::scheduler;
  swapcontext(&scheduler.fibers[threadIdx.x].context, &scheduler.here);
}

// The size of the emulated device, on which the number of blocks of a launch depends.
extern "C" __attribute__((visibility("default"))) void emulator_set_processors(int n) {
  emulator::n_processors = n;
}

extern "C" __attribute__((visibility("default"))) long emulator_launches() {
  return emulator::n_launches;
}

// Makes the n-th call of a kind fail; 0 for none.
extern "C" __attribute__((visibility("default"))) void emulator_fail(int kind, int n) {
  emulator::fails_in[kind] = n;
}

// Streams and pieces of memory that nobody has given back.
extern "C" __attribute__((visibility("default"))) long emulator_held() { return emulator::n_held; }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "invalid argument";
}

cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulator::n_processors;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int) {
  *out = {"emulator", 0, 0, emulator::n_processors, std::size_t(1) << 30};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** out, std::size_t n_bytes) {
  return emulator::allocate(emulator::device_memory, out, n_bytes);
}
cudaError_t cudaFree(void* p) { return emulator::release(p); }
cudaError_t cudaMallocHost(void** out, std::size_t n_bytes) {
  return emulator::allocate(emulator::pinned_memory, out, n_bytes);
}
cudaError_t cudaFreeHost(void* p) { return emulator::release(p); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t n_bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (emulator::fails(emulator::copy)) return cudaErrorInvalidValue;
  std::memmove(to, from, n_bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t n_bytes, cudaStream_t) {
  std::memset(p, value, n_bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  *out = nullptr;
  if (emulator::fails(emulator::stream)) return cudaErrorInvalidValue;
  *out = reinterpret_cast<cudaStream_t>(new char);
  ++emulator::n_held;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<char*>(stream);
  --emulator::n_held;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

using Clock = std::chrono::steady_clock;
cudaError_t cudaEventCreate(cudaEvent_t* out) {
  *out = reinterpret_cast<cudaEvent_t>(new Clock::time_point);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Clock::time_point*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *reinterpret_cast<Clock::time_point*>(event) = Clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const auto* a = reinterpret_cast<Clock::time_point*>(from);
  const auto* b = reinterpret_cast<Clock::time_point*>(to);
  *milliseconds = std::chrono::duration<float, std::milli>(*b - *a).count();
  return cudaSuccess;
}
