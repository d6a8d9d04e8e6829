// Task vectors of a store as float32, and sums of them with factors. Reference:
// tests/reference/weighted.py.
#pragma once

#include "kernels/mask.h"

namespace tallies {
namespace {

// out = mask ? inside(rows, at) : outside, in the order of the elements.
template <class Word, class Inside>
TALLIES_INLINE void expand(const Word* const* inputs, int n_inputs, const std::uint8_t* mask,
                           F32s outside, float* out, std::size_t n_elements, const Inside& inside) {
  const LaneBits<Float32> lanes;
  for_each_block<kMaskBlock>(
      inputs, n_inputs, n_elements,
      [&](const Word* const* rows, std::size_t first, std::size_t i, std::size_t n)
          __attribute__((always_inline)) {
            std::uint64_t word = 0;
            if (n == kMaskBlock)
              __builtin_memcpy(&word, mask + i / 8, sizeof word);
            else
              __builtin_memcpy(&word, mask + i / 8, (n + 7) / 8);
            float last[kMaskBlock];
            float* const block = n == kMaskBlock ? out + i : last;
            for (int at = 0; at < kMaskBlock; at += kPair)
              for (int h = 0; h < 2; ++h) {
                const int lane = at + h * kLanes;
                const Mask kept = lanes.of(static_cast<std::uint32_t>(word >> at), h);
                store(block + lane, select(kept, inside(rows, first + lane), outside));
              }
            if (n != kMaskBlock) __builtin_memcpy(out + i, last, n * sizeof(float));
          });
}

// out = scale * (mask ? shared : +0)
template <class T>
void decode_masked(const void* shared, const std::uint8_t* mask, float scale, float* out,
                   std::size_t n) {
  using Word = typename T::Word;
  const Word* input = static_cast<const Word*>(shared);
  expand(&input, 1, mask, scale * F32s{}, out, n,
         [&](const Word* const* rows, std::size_t at)
             __attribute__((always_inline)) { return scale * T::in_order(rows[0] + at); });
}

// out = mask ? magnitude : -magnitude
void decode_signs(const std::uint8_t* mask, float magnitude, float* out, std::size_t n) {
  const F32s plus = all(magnitude);
  expand<float>(nullptr, 0, mask, -plus, out, n,
                [&](const float* const*, std::size_t)
                    __attribute__((always_inline)) { return plus; });
}

// total = total + factor * x
void add_scaled(float* total, const float* x, float factor, std::size_t n) {
  const float* inputs[2] = {total, x};
  map_blocks<kPair>(inputs, 2, total, n,
                    [&](const float* const* rows, std::size_t first, float* to)
                        __attribute__((always_inline)) {
                          prefetch_block(rows[1] + first, kPair);
                          for (int at = 0; at < kPair; at += kLanes)
                            store(to + at, load<F32s>(rows[0] + first + at) +
                                               factor * load<F32s>(rows[1] + first + at));
                        });
}

}  // namespace
}  // namespace tallies
