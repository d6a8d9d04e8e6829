// Loads of magnitudes and sums over the threads of a block, for the kernels that rank.
#pragma once

#include "cuda/chunk.h"

namespace tallies::cuda {
namespace {

constexpr int kN = 8;  // elements that a thread takes at a time
using Count = unsigned long long;

// The ranks of the magnitudes of n elements of a task vector from element i on; without a base the
// expert is the task vector.
template <class T>
__device__ __forceinline__ void load_magnitudes(std::uint32_t (&out)[kN], const void* base,
                                                const void* expert, std::size_t i, int n) {
  using Word = typename T::Word;
  const Chunk<Word, kN> x = load_chunk<Word, kN>(static_cast<const Word*>(expert) + i, n);
  Chunk<Word, kN> b{};
  if (base != nullptr) b = load_chunk<Word, kN>(static_cast<const Word*>(base) + i, n);
  for (int j = 0; j < kN; ++j) {
    const float delta =
        base == nullptr ? T::in_order(x.v + j) : T::in_order(x.v + j) - T::in_order(b.v + j);
    out[j] = static_cast<std::uint32_t>(rank_of(magnitude(delta)));
  }
}

// Replaces each of kThreads counts, one a thread, by the sum of its own and all later threads'.
__device__ __forceinline__ Count sum_of_later(Count mine) {
  __shared__ Count sums[kThreads];
  sums[threadIdx.x] = mine;
  for (unsigned reach = 1; reach < kThreads; reach *= 2) {
    __syncthreads();
    const Count more = threadIdx.x + reach < kThreads ? sums[threadIdx.x + reach] : 0;
    __syncthreads();
    sums[threadIdx.x] += more;
  }
  __syncthreads();
  const Count sum = sums[threadIdx.x];
  __syncthreads();
  return sum;
}

}  // namespace
}  // namespace tallies::cuda
