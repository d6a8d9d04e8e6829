// Task vectors of a store as float32, and sums of them with factors. Reference:
// tests/reference/weighted.py.
#pragma once

#include "kernels/gram.h"
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
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const std::uint64_t word = load_bits<kMaskBlock>(mask + i / 8, n);
        float last[kMaskBlock];
        float* const block = n == kMaskBlock ? out + i : last;
        for (std::size_t at = 0; at < kMaskBlock; at += kPair)
          for (std::size_t h = 0; h < 2; ++h) {
            const std::size_t lane = at + h * kLanes;
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
  expand(
      &input, 1, mask, scale * F32s{}, out, n,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t at) {
        return scale * T::in_order(rows[0] + at);
      });
}

// out = mask ? magnitude : -magnitude
void decode_signs(const std::uint8_t* mask, float magnitude, float* out, std::size_t n) {
  const F32s plus = all(magnitude);
  expand<float>(
      nullptr, 0, mask, -plus, out, n,
      TALLIES_LAMBDA(const float* const*, std::size_t) { return plus; });
}

template <std::size_t kRows>
void add_scaled_rows(float* total, const float* const* rows, const float* factors,
                     std::size_t n_elements) {
  const float* inputs[kRows + 1] = {total};
  for (std::size_t row = 0; row < kRows; ++row) inputs[row + 1] = rows[row];
  map_blocks<kPair>(
      inputs, kRows + 1, total, n_elements,
      TALLIES_LAMBDA(const float* const* in, std::size_t first, float* to) {
        for (std::size_t row = 1; row <= kRows; ++row) prefetch_block(in[row] + first, kPair);
        for (std::size_t at = 0; at < kPair; at += kLanes) {
          F32s sum = load<F32s>(in[0] + first + at);
          for (std::size_t row = 0; row < kRows; ++row)
            sum = sum + factors[row] * load<F32s>(in[row + 1] + first + at);
          store(to + at, sum);
        }
      });
}

template <std::size_t kRows>
void dots_rows(const float* x, const float* const* rows, std::size_t n_elements,
               double (*lanes)[8]) {
  constexpr std::size_t kDoubles = kLanes / 2, kVectors = 8 / kDoubles, kBlock = 16;
  const float* inputs[kRows + 1] = {x};
  for (std::size_t row = 0; row < kRows; ++row) inputs[row + 1] = rows[row];
  F64s sum[kRows][kVectors] = {};
  for_each_block<kBlock>(
      inputs, kRows + 1, n_elements,
      TALLIES_LAMBDA(const float* const* in, std::size_t first, std::size_t, std::size_t) {
        const auto wide = TALLIES_LAMBDA(std::size_t row, std::size_t at) {
          return to_doubles(load<HalfF32s>(in[row] + first + at));
        };
        for (std::size_t row = 1; row <= kRows; ++row) prefetch_block(in[row] + first, kBlock);
        for (std::size_t at = 0; at < kBlock; at += kDoubles) {
          const F64s left = wide(0, at);
          for (std::size_t row = 0; row < kRows; ++row) {
            F64s& lane = sum[row][at / kDoubles % kVectors];
            lane = lane + left * wide(row + 1, at);
          }
        }
      });
  __builtin_memcpy(lanes, sum, sizeof sum);
}

// total = total + factor * x for each row in turn
void add_scaled(float* total, const float* const* rows, const float* factors, int n_rows,
                std::size_t n) {
  switch (n_rows) {
    case 1:
      return add_scaled_rows<1>(total, rows, factors, n);
    case 2:
      return add_scaled_rows<2>(total, rows, factors, n);
    case 3:
      return add_scaled_rows<3>(total, rows, factors, n);
    case kRowsTogether:
      return add_scaled_rows<kRowsTogether>(total, rows, factors, n);
  }
}

void dots(const float* x, const float* const* rows, int n_rows, std::size_t n, double (*lanes)[8]) {
  switch (n_rows) {
    case 1:
      return dots_rows<1>(x, rows, n, lanes);
    case 2:
      return dots_rows<2>(x, rows, n, lanes);
    case 3:
      return dots_rows<3>(x, rows, n, lanes);
    case kRowsTogether:
      return dots_rows<kRowsTogether>(x, rows, n, lanes);
  }
}

}  // namespace
}  // namespace tallies
