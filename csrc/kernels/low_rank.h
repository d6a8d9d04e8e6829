// Adds a product of two small factors to a matrix, without the product in memory: what a LoRA
// adapter is to a weight. Reference: tests/reference/low_rank_product.py.
#pragma once

#include "kernels/half.h"

namespace tallies {
namespace {

// An element of the product: the first product of factors starts the sum, each other is rounded
// and added in order of the rank, and the sum is scaled before it is added.
struct LowRank {
  static TALLIES_INLINE F32s step(F32s sum, float left, F32s right) { return sum + left * right; }
  static TALLIES_INLINE F32s finish(F32s x, float scale, F32s sum) { return x + scale * sum; }
};

// The panel of the right factor that all rows use lies widened in the first-level cache, whatever
// the rank: 64 rows of it, of a pair of vectors each, and as many rows of sums that wait for the
// next ones.
constexpr std::size_t kPanelRanks = 64, kSumRows = 64;

// Rows whose sums are in registers: each number of the panel that is loaded is used so often.
constexpr int kRegisterRows = kLanes == 16 ? 8 : 4;

struct Panel {
  float right[kPanelRanks][kPair];
  float sums[kSumRows][kPair];
};

template <class T>
TALLIES_INLINE void fill(Panel& panel, const typename T::Word* right, std::size_t stride,
                         std::size_t n_ranks, std::size_t n_columns) {
  for (std::size_t k = 0; k < n_ranks; ++k, right += stride) {
    typename T::Word last[kPair] = {};
    const typename T::Word* row = right;
    if (n_columns < kPair) {
      __builtin_memcpy(last, right, n_columns * sizeof *right);
      row = last;
    }
    for (int at = 0; at < kPair; at += kLanes) store(panel.right[k] + at, T::in_order(row + at));
  }
}

// Some rows of a product, and the part of the rank that is in the panel: from `first` on.
struct ProductRows {
  const float* left;
  std::size_t rank, first, n_ranks;
  float scale;
  float* out;
  std::size_t out_stride, n_columns;

  TALLIES_INLINE ProductRows from(std::size_t row) const {
    ProductRows rest = *this;
    rest.left += row * rank;
    rest.out += row * out_stride;
    return rest;
  }
};

// Goes on with the sums of kRows rows, and adds them to `out` at the end of the rank.
template <int kRows>
void multiply(const Panel& panel, const ProductRows& product, float (*sums)[kPair]) {
  const float* const left = product.left + product.first;
  const std::size_t rank = product.rank, n_ranks = product.n_ranks;
  F32s sum[kRows][2];
  for (int row = 0; row < kRows; ++row)
    for (int h = 0; h < 2; ++h)
      sum[row][h] = product.first == 0 ? left[row * rank] * load<F32s>(panel.right[0] + h * kLanes)
                                       : load<F32s>(sums[row] + h * kLanes);
  for (std::size_t k = product.first == 0; k < n_ranks; ++k) {
    const F32s right[2] = {load<F32s>(panel.right[k]), load<F32s>(panel.right[k] + kLanes)};
    for (int row = 0; row < kRows; ++row)
      for (int h = 0; h < 2; ++h)
        sum[row][h] = LowRank::step(sum[row][h], left[row * rank + k], right[h]);
  }
  if (product.first + n_ranks < rank) {
    for (int row = 0; row < kRows; ++row)
      for (int h = 0; h < 2; ++h) store(sums[row] + h * kLanes, sum[row][h]);
    return;
  }
  for (int row = 0; row < kRows; ++row) {
    float last[kPair] = {};
    float* const out = product.out + row * product.out_stride;
    float* const to = product.n_columns < kPair ? last : out;
    if (to == last) __builtin_memcpy(last, out, product.n_columns * sizeof(float));
    for (int h = 0; h < 2; ++h) {
      float* const x = to + h * kLanes;
      store(x, LowRank::finish(load<F32s>(x), product.scale, sum[row][h]));
    }
    if (to == last) __builtin_memcpy(out, last, product.n_columns * sizeof(float));
  }
}

// The same for `n_rows` rows, as many at once as there are registers for.
template <int kRows = kRegisterRows>
TALLIES_INLINE void multiply_all(Panel& panel, const ProductRows& product, std::size_t n_rows,
                                 std::size_t row = 0) {
  for (; row + kRows <= n_rows; row += kRows)
    multiply<kRows>(panel, product.from(row), panel.sums + row);
  if constexpr (kRows > 1) multiply_all<kRows / 2>(panel, product, n_rows, row);
}

// out[i, j] += scale * the sum over k of left[i, k] * right[k, j]; `left` has no gaps.
template <class T>
void low_rank(const float* left, std::size_t n_rows, std::size_t rank, const void* right,
              std::size_t right_stride, std::size_t n_columns, float scale, float* out,
              std::size_t out_stride) {
  const auto* const words = static_cast<const typename T::Word*>(right);
  Panel panel;
  for (std::size_t column = 0; column < n_columns; column += kPair) {
    const std::size_t n = n_columns - column < kPair ? n_columns - column : kPair;
    for (std::size_t row = 0; row < n_rows; row += kSumRows)
      for (std::size_t k = 0; k < rank; k += kPanelRanks) {
        const std::size_t n_ranks = rank - k < kPanelRanks ? rank - k : kPanelRanks;
        // A panel that is the whole rank stays.
        if (row == 0 || rank > kPanelRanks)
          fill<T>(panel, words + k * right_stride + column, right_stride, n_ranks, n);
        const ProductRows product{left, rank, k, n_ranks, scale, out + column, out_stride, n};
        multiply_all(panel, product.from(row), n_rows - row < kSumRows ? n_rows - row : kSumRows);
      }
  }
}

}  // namespace
}  // namespace tallies
