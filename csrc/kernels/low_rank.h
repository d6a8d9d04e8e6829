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

// Rows and vectors of them whose sums are in registers: a block. AVX-512 multiplies by a number in
// memory at no cost where the product is the only use of it; the same number in a register, for two
// vectors, takes a third more time (Zen 4). Others have 16 registers, and load a number for four
// vectors, which they multiply from memory.
constexpr std::size_t kBlockRows = kLanes == 16 ? 8 : 3, kBlockVectors = kLanes == 16 ? 1 : 4;
constexpr std::size_t kBlockColumns = kBlockVectors * kLanes;

// A panel of the right factor, widened once for all rows, takes half of the first-level cache, and
// blocks go along it: rows of many matrices are multiples of 4 KiB apart, so that blocks one below
// the other would push each other out of the cache. The sums of a longer rank wait for the next
// panel.
constexpr std::size_t kPanel = 4096, kPanelRanks = 128, kSumRows = 64;

// The place of a block, of its factors and of its sums.
template <class T>
struct ProductBlock {
  const float* left;  // rows of `rank` numbers
  std::size_t rank, n_ranks;
  const typename T::Word* right;
  std::size_t right_stride;
  float* sums;
  std::size_t sums_stride;
  float scale;
  float* out;
  std::size_t out_stride;

  TALLIES_INLINE ProductBlock below(std::size_t n_rows) const {
    ProductBlock next = *this;
    next.left += n_rows * rank;
    next.sums += n_rows * sums_stride;
    next.out += n_rows * out_stride;
    return next;
  }
};

// Sums begin here, or go on from where they were; they end in `out`, or wait. Loops and branches
// are such that GCC keeps them in registers from the first to the last.
template <bool kBegins, bool kEnds, std::size_t kRows, class T>
TALLIES_INLINE void multiply_block(const ProductBlock<T>& block) {
  const float* const left = block.left;
  const std::size_t rank = block.rank, n_ranks = block.n_ranks, right_stride = block.right_stride;
  const typename T::Word* right = block.right;
  F32s sum[kRows][kBlockVectors];
  for (std::size_t i = 0; i < kRows; ++i)
    for (std::size_t v = 0; v < kBlockVectors; ++v)
      if constexpr (kBegins)
        sum[i][v] = left[i * rank] * T::in_order(right + v * kLanes);
      else
        sum[i][v] = load<F32s>(block.sums + i * block.sums_stride + v * kLanes);
  if constexpr (kBegins) right += right_stride;
  for (std::size_t k = kBegins; k < n_ranks; ++k, right += right_stride) {
    F32s x[kBlockVectors];
    for (std::size_t v = 0; v < kBlockVectors; ++v) x[v] = T::in_order(right + v * kLanes);
    for (std::size_t i = 0; i < kRows; ++i)
      for (std::size_t v = 0; v < kBlockVectors; ++v)
        sum[i][v] = LowRank::step(sum[i][v], left[i * rank + k], x[v]);
  }
  float* const out = kEnds ? block.out : block.sums;
  const std::size_t stride = kEnds ? block.out_stride : block.sums_stride;
  if constexpr (kEnds)
    for (std::size_t i = 0; i < kRows; ++i)
      for (std::size_t v = 0; v < kBlockVectors; ++v) {
        const F32s x = load<F32s>(out + i * stride + v * kLanes);
        sum[i][v] = LowRank::finish(x, block.scale, sum[i][v]);
      }
  // After all loads: one just behind a store to a multiple of 4 KiB away would wait for it.
  for (std::size_t i = 0; i < kRows; ++i)
    for (std::size_t v = 0; v < kBlockVectors; ++v) store(out + i * stride + v * kLanes, sum[i][v]);
}

// A block of fewer columns, in a copy that is whole.
template <bool kBegins, bool kEnds, std::size_t kRows, class T>
void multiply_last(ProductBlock<T> block, std::size_t n_columns) {
  float copy[kRows][kBlockColumns] = {};
  float* const out = block.out;
  const std::size_t stride = block.out_stride;
  for (std::size_t i = 0; i < kRows; ++i)
    for (std::size_t j = 0; j < n_columns; ++j) copy[i][j] = out[i * stride + j];
  block.out = copy[0];
  block.out_stride = kBlockColumns;
  multiply_block<kBegins, kEnds, kRows>(block);
  for (std::size_t i = 0; i < kRows; ++i)
    for (std::size_t j = 0; j < n_columns; ++j) out[i * stride + j] = copy[i][j];
}

// The blocks of all rows, along a panel whose blocks are `next` apart.
template <bool kBegins, bool kEnds, std::size_t kRows = kBlockRows, class T>
void multiply_panel(const ProductBlock<T>& panel, std::size_t next, std::size_t n_rows,
                    std::size_t n_columns, std::size_t row = 0) {
  for (; row + kRows <= n_rows; row += kRows) {
    ProductBlock<T> block = panel.below(row);
    std::size_t column = 0;
    for (; column + kBlockColumns <= n_columns; column += kBlockColumns) {
      multiply_block<kBegins, kEnds, kRows>(block);
      block.right += next;
      block.sums += kBlockColumns;
      block.out += kBlockColumns;
    }
    if (column < n_columns) multiply_last<kBegins, kEnds, kRows>(block, n_columns - column);
  }
  if constexpr (kRows > 1)
    multiply_panel<kBegins, kEnds, kRows / 2>(panel, next, n_rows, n_columns, row);
}

// The same of a part of the rank.
inline void multiply_part(bool begins, bool ends, const ProductBlock<Float32>& panel,
                          std::size_t next, std::size_t n_rows, std::size_t n_columns) {
  if (begins && ends) return multiply_panel<true, true>(panel, next, n_rows, n_columns);
  if (begins) return multiply_panel<true, false>(panel, next, n_rows, n_columns);
  if (ends) return multiply_panel<false, true>(panel, next, n_rows, n_columns);
  multiply_panel<false, false>(panel, next, n_rows, n_columns);
}

// Widens a panel block by block, columns beyond the last as zeros.
template <class T>
TALLIES_INLINE void widen_panel(const typename T::Word* right, std::size_t stride,
                                std::size_t n_ranks, std::size_t n_columns, float* to) {
  for (std::size_t column = 0; column < n_columns; column += kBlockColumns) {
    const typename T::Word* from = right + column;
    for (std::size_t k = 0; k < n_ranks; ++k, from += stride, to += kBlockColumns) {
      typename T::Word last[kBlockColumns];
      const typename T::Word* row = from;
      if (n_columns - column < kBlockColumns) {
        for (std::size_t j = 0; j < kBlockColumns; ++j)
          last[j] = column + j < n_columns ? from[j] : typename T::Word{};
        row = last;
      }
      for (std::size_t at = 0; at < kBlockColumns; at += kLanes)
        store(to + at, T::in_order(row + at));
    }
  }
}

// out[i, j] += scale * the sum over k of left[i, k] * right[k, j]; `left` has no gaps.
template <class T>
void low_rank(const float* left, std::size_t n_rows, std::size_t rank, const void* right,
              std::size_t right_stride, std::size_t n_columns, float scale, float* out,
              std::size_t out_stride) {
  const auto least = TALLIES_LAMBDA(std::size_t a, std::size_t b) { return a < b ? a : b; };
  const auto* const words = static_cast<const typename T::Word*>(right);
  alignas(64) float panel[kPanel], sums[kSumRows * kPanel / kPanelRanks];
  std::size_t column = 0;
  // Rows of one block use a number once, so that widening it first would not pay.
  if (n_rows <= kBlockRows && rank <= kPanelRanks) {
    column = n_columns / kBlockColumns * kBlockColumns;
    const ProductBlock<T> all{left, rank, rank,  words, right_stride,
                              sums, 0,    scale, out,   out_stride};
    multiply_panel<true, true>(all, kBlockColumns, n_rows, column);
  }
  const std::size_t width = kPanel / least(rank, kPanelRanks) / kBlockColumns * kBlockColumns;
  const std::size_t group = rank > kPanelRanks ? kSumRows : n_rows;
  for (; column < n_columns; column += width) {
    const std::size_t n_here = least(n_columns - column, width);
    for (std::size_t row = 0; row < n_rows; row += group)
      for (std::size_t k = 0; k < rank; k += kPanelRanks) {
        const std::size_t n_ranks = least(rank - k, kPanelRanks);
        widen_panel<T>(words + k * right_stride + column, right_stride, n_ranks, n_here, panel);
        float* const to = out + row * out_stride + column;
        multiply_part(k == 0, k + n_ranks == rank,
                      {left + row * rank + k, rank, n_ranks, panel, kBlockColumns, sums, width,
                       scale, to, out_stride},
                      n_ranks * kBlockColumns, least(n_rows - row, group), n_here);
      }
  }
}

}  // namespace
}  // namespace tallies
