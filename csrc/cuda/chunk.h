// The walk of a thread over an array: chunks of kN neighbouring elements, in and out of registers
// by 16 bytes where the array allows it. The only loop over elements and the only tail of the
// elementwise kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/tuning.h"
#include "kernels/half.h"

namespace tallies::cuda {
namespace {

template <class Word, int kN>
struct alignas(sizeof(Word) * unsigned(kN) < 16 ? sizeof(Word) * unsigned(kN) : 16) Chunk {
  Word v[std::size_t(kN)];
};

template <int kBytes>
struct WideWord {
  static_assert(kBytes % 16 == 0);
  using Type = uint4;
};
template <>
struct WideWord<8> {
  using Type = uint2;
};

template <class C>
TALLIES_INLINE bool can_be_wide(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % alignof(C) == 0;
}

// The first n of kN words at p, zeros after them.
template <class Word, int kN>
TALLIES_INLINE Chunk<Word, kN> load_chunk(const Word* p, int n = kN) {
  using C = Chunk<Word, kN>;
  using Wide = typename WideWord<sizeof(C)>::Type;
  C chunk;
  if (n == kN && can_be_wide<C>(p)) {
    Wide wide[sizeof(C) / sizeof(Wide)];
    for (std::size_t w = 0; w < sizeof(C) / sizeof(Wide); ++w)
      wide[w] = reinterpret_cast<const Wide*>(p)[w];
    __builtin_memcpy(&chunk, wide, sizeof chunk);
  } else {
    for (int j = 0; j < kN; ++j) chunk.v[j] = j < n ? p[j] : Word{};
  }
  return chunk;
}

template <class Word, int kN>
TALLIES_INLINE void store_chunk(Word* p, const Chunk<Word, kN>& chunk, int n = kN) {
  using C = Chunk<Word, kN>;
  using Wide = typename WideWord<sizeof(C)>::Type;
  if (n == kN && can_be_wide<C>(p)) {
    Wide wide[sizeof(C) / sizeof(Wide)];
    __builtin_memcpy(wide, &chunk, sizeof chunk);
    for (std::size_t w = 0; w < sizeof(C) / sizeof(Wide); ++w)
      reinterpret_cast<Wide*>(p)[w] = wide[w];
  } else {
    for (int j = 0; j < kN; ++j)
      if (j < n) p[j] = chunk.v[j];
  }
}

// The same in float32, of a row of the type.
template <class T, std::size_t kSize>
TALLIES_INLINE void load_floats(float (&x)[kSize], const void* row, std::size_t i, int n) {
  constexpr int kN = kSize;
  using Word = typename T::Word;
  const Chunk<Word, kN> words = load_chunk<Word, kN>(static_cast<const Word*>(row) + i, n);
  for (int j = 0; j < kN; ++j) x[j] = T::in_order(words.v + j);
}

// Calls body(i, n) for this thread's chunks: elements i to i + n of n_elements, n = kN but for the
// last.
template <int kN, class Body>
__device__ __forceinline__ void for_each_chunk(std::size_t n_elements, const Body& body) {
  const std::size_t step = std::size_t(gridDim.x) * kThreads * kN;
  for (std::size_t i = (std::size_t(blockIdx.x) * kThreads + threadIdx.x) * kN; i < n_elements;
       i += step)
    body(i, n_elements - i < kN ? static_cast<int>(n_elements - i) : kN);
}

// Adds the largest of all threads' values to *out; every thread of the block calls it.
__device__ __forceinline__ void add_largest(std::int32_t* out, std::int32_t value) {
  __shared__ int most;
  if (threadIdx.x == 0) most = 0;
  __syncthreads();
  atomicMax(&most, value);
  __syncthreads();
  if (threadIdx.x == 0) atomicMax(out, most);
}

}  // namespace
}  // namespace tallies::cuda
