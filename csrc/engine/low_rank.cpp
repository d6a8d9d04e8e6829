#include "engine/low_rank.h"

#include <algorithm>

#include "cpu/ops.h"
#include "engine/aligned.h"
#include "stream/pages.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// The matrix is cut into windows of so many elements, which stay in the second-level cache; rows
// enough for a panel of the right factor to be used often.
constexpr std::size_t kWindowRows = 32, kWindowColumns = 4096;

std::size_t pieces(std::size_t n, std::size_t of) { return (n + of - 1) / of; }

template <class Pointer>
Pointer element(Pointer data, DType type, std::size_t i) {
  using Byte =
      std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return static_cast<Byte*>(data) + i * size_of(type);
}

void add_to_window(const LowRankSum& sum, std::size_t row, std::size_t column) {
  const std::size_t n_rows = std::min(kWindowRows, sum.n_rows - row);
  const std::size_t n_columns = std::min(kWindowColumns, sum.n_columns - column);
  const auto type = static_cast<int>(sum.base.dtype);
  const auto at = [&](std::size_t i) { return (row + i) * sum.n_columns + column; };
  std::vector<float> left(n_rows * sum.rank);
  AlignedFloats window;
  window.reserve(n_rows * n_columns);
  kernels().widen[static_cast<int>(sum.left.dtype)](
      element(sum.left.data, sum.left.dtype, row * sum.rank), left.data(), left.size());
  for (std::size_t i = 0; i < n_rows; ++i)
    kernels().widen[type](element(sum.base.data, sum.base.dtype, at(i)),
                          window.data() + i * n_columns, n_columns);
  kernels().low_rank[static_cast<int>(sum.right.dtype)](
      left.data(), n_rows, sum.rank, element(sum.right.data, sum.right.dtype, column),
      sum.n_columns, n_columns, sum.scale, window.data(), n_columns);
  for (std::size_t i = 0; i < n_rows; ++i)
    kernels().narrow[type](window.data() + i * n_columns, element(sum.out, sum.base.dtype, at(i)),
                           n_columns);
}

}  // namespace

void low_rank_sum(const LowRankSum& sum, int n_threads) {
  prefer_huge_pages(sum.out, sum.n_rows * sum.n_columns * size_of(sum.base.dtype));
  const std::size_t across = pieces(sum.n_columns, kWindowColumns);
  parallel_for(pieces(sum.n_rows, kWindowRows) * across, n_threads, [&](std::size_t i) {
    add_to_window(sum, i / across * kWindowRows, i % across * kWindowColumns);
  });
}

}  // namespace tallies
