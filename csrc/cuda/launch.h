// Queues a kernel and says what went wrong, if anything did.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

#include "cuda/ops.h"
#include "cuda/tuning.h"

namespace tallies::cuda {

inline Failure failure(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Blocks for n_items, of which a block takes n_per_block at a time: as many as fill the device, and
// never so few that a block would count beyond 32 bits.
inline Failure grid_for(std::size_t n_items, std::size_t n_per_block, unsigned* n_blocks) {
  int device = 0, n_processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&n_processors, cudaDevAttrMultiProcessorCount, device);
  const std::size_t wanted = (n_items + n_per_block - 1) / n_per_block;
  const std::size_t full = static_cast<std::size_t>(n_processors) * kBlocksPerProcessor;
  *n_blocks = static_cast<unsigned>(std::max(std::min(wanted, full), n_items >> 30));
  return failure(error);
}

template <class... Params, class... Args>
Failure launch(void (*kernel)(Params...), unsigned n_blocks, Stream stream, const Args&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(n_blocks);
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  return failure(cudaLaunchKernelEx(&config, kernel, Params(args)...));
}

// A kernel that walks over n elements, n_each at a time in each thread. Nothing for no elements.
template <class... Params, class... Args>
Failure launch_over(std::size_t n, int n_each, void (*kernel)(Params...), Stream stream,
                    const Args&... args) {
  if (n == 0) return nullptr;
  unsigned n_blocks = 0;
  if (const Failure wrong = grid_for(n, std::size_t(n_each) * kThreads, &n_blocks)) return wrong;
  return launch(kernel, n_blocks, stream, args...);
}

}  // namespace tallies::cuda
