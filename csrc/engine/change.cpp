// Makes changes in rows of float32 values, a block of some rows at a time. No value depends
// on how rows are cut into blocks, or elements into windows.

#include <algorithm>
#include <vector>

#include "cpu/ops.h"
#include "engine/decode.h"

namespace tallies {
namespace {

// Rows of a block, for all of which the kernel lays out a part of the right factor once.
constexpr std::size_t kRows = 64;
// A block whose products are made in memory of their own.
constexpr std::size_t kFewRows = 8, kColumns = 256;

void widen(DType type, const void* values, float* out, std::size_t n) {
  kernels().widen[static_cast<int>(type)](values, out, n);
}

const char* at(const void* values, DType type, std::uint64_t element) {
  return static_cast<const char*>(values) + element * size_of(type);
}

// Some columns of neighbouring rows of one matrix, with their values.
struct Block {
  std::uint64_t row, column;  // the first of each, of the tensor
  std::size_t n_rows, n_columns;
  float* values;
  std::size_t stride;  // from row to row
};

// Stored columns of a right factor, one row for each rank.
struct Right {
  DType type;
  const void* values;
  std::size_t stride;

  Right from(std::size_t column) const { return {type, at(values, type, column), stride}; }
};

// Adds scale * left @ right to a block: `left` has `rank` values for each of its rows.
void add_product(const float* left, std::uint64_t rank, Right right, float scale, Block block) {
  const auto n = static_cast<std::size_t>(rank);
  if (is_fused(right.type)) {
    kernels().low_rank[static_cast<int>(right.type)](left, block.n_rows, n, right.values,
                                                     right.stride, block.n_columns, scale,
                                                     block.values, block.stride);
    return;
  }
  std::vector<float> wide(n * kColumns);
  for (std::size_t first = 0; first < block.n_columns; first += kColumns) {
    const std::size_t n_columns = std::min(kColumns, block.n_columns - first);
    const Right here = right.from(first);
    for (std::size_t k = 0; k < n; ++k)
      widen(here.type, at(here.values, here.type, k * here.stride), wide.data() + k * kColumns,
            n_columns);
    kernels().low_rank[0](left, block.n_rows, n, wide.data(), kColumns, n_columns, scale,
                          block.values + first, block.stride);
  }
}

// One change of one piece.
class Changer {
 public:
  Changer(const Piece& piece, const Change& change, float* values)
      : piece_(piece),
        change_(change),
        arrays_(piece.tile.in + piece.source.array + n_arrays(piece.source.form)),
        values_(values),
        first_(piece.first() + piece.source.before),
        first_row_(std::max((piece.tile.first + piece.source.before) / change.columns,
                            change.first_row)) {}

  void run() {
    switch (change_.form) {
      case Change::Form::product:
        return for_each_block(kRows, [&](Block block) { add_product_of(change_.a, block); });
      case Change::Form::hadamard:
        return for_each_block(kFewRows, [&](Block block) { add_hadamard(block); });
      case Change::Form::kronecker:
        return for_each_block(1, [&](Block block) { add_kronecker(block); });
      case Change::Form::added:
        return add_values();
      case Change::Form::row_factors:
        return for_each_block(1, [&](Block block) { multiply_row(block); });
      case Change::Form::column_factors:
        return for_each_block(1, [&](Block block) { multiply_columns(block); });
      case Change::Form::rows:
        return for_each_block(1, [&](Block block) { replace_row(block); });
      case Change::Form::added_rows:
        return for_each_block(1, [&](Block block) { add_row(block); });
      case Change::Form::row_divisors:
        return for_each_block(1, [&](Block block) { divide_row(block); });
    }
  }

 private:
  // Calls body(block) for the changed elements of the piece: whole rows of one matrix, or a part of
  // one row.
  template <class Body>
  void for_each_block(std::size_t most_rows, const Body& body) {
    const std::uint64_t columns = change_.columns;
    const std::uint64_t end_row = std::min(change_.end_row, kWhole / columns);
    const std::uint64_t end = std::min(first_ + piece_.n, end_row * columns);
    std::uint64_t element = std::max(first_, change_.first_row * columns);
    while (element < end) {
      const std::uint64_t row = element / columns, column = element % columns;
      const std::uint64_t left = end - element;
      std::uint64_t n_rows = 1, n_columns = std::min(columns - column, left);
      if (column == 0 && left >= columns) {
        const std::uint64_t in_matrix = change_.matrix_rows - row % change_.matrix_rows;
        n_rows = std::min({std::uint64_t(most_rows), left / columns, in_matrix});
      }
      body(Block{row, column, static_cast<std::size_t>(n_rows), static_cast<std::size_t>(n_columns),
                 values_ + (element - first_), static_cast<std::size_t>(columns)});
      element += n_rows * n_columns;
    }
  }

  const void* array(const Factor& factor, std::size_t i = 0) const {
    return arrays_[factor.array + i];
  }

  // Return the values of a left factor for the rows of a block.
  const float* left(const Factor& factor, const Block& block) {
    left_.resize(std::max(left_.size(), kRows * static_cast<std::size_t>(factor.rank)));
    widen(factor.type, at(array(factor), factor.type, (block.row - first_row_) * factor.rank),
          left_.data(), block.n_rows * static_cast<std::size_t>(factor.rank));
    return left_.data();
  }

  Right right(const Factor& factor, const Block& block) const {
    const std::uint64_t matrix = block.row / change_.matrix_rows - first_row_ / change_.matrix_rows;
    const std::uint64_t before = matrix * factor.rank * change_.columns + block.column;
    return {factor.right_type, at(array(factor, 1), factor.right_type, before),
            static_cast<std::size_t>(change_.columns)};
  }

  void add_product_of(const Factor& factor, Block block) {
    add_product(left(factor, block), factor.rank, right(factor, block), change_.scale, block);
  }

  void add_hadamard(Block block) {
    float products[2][kFewRows * kColumns];
    for (std::size_t first = 0; first < block.n_columns; first += kColumns) {
      const std::size_t n = std::min(kColumns, block.n_columns - first);
      for (int i = 0; i < 2; ++i) {
        const Factor& factor = i == 0 ? change_.a : change_.b;
        std::fill_n(products[i], block.n_rows * kColumns, 0.0f);
        add_product(left(factor, block), factor.rank, right(factor, block).from(first), 1.0f,
                    {block.row, block.column + first, block.n_rows, n, products[i], kColumns});
      }
      for (std::size_t row = 0; row < block.n_rows; ++row)
        for (std::size_t j = 0; j < n; ++j) {
          const std::size_t of = row * kColumns + j;
          block.values[row * block.stride + first + j] +=
              change_.scale * (products[0][of] * products[1][of]);
        }
    }
  }

  // Write n values of a row of a Kronecker factor.
  void row_of(const Factor& factor, std::uint64_t row, std::uint64_t column, std::size_t n,
              float* out) {
    if (factor.rank == 0) {
      widen(factor.type, at(array(factor), factor.type, row * factor.columns + column), out, n);
      return;
    }
    left_.resize(std::max(left_.size(), static_cast<std::size_t>(factor.rank)));
    widen(factor.type, at(array(factor), factor.type, row * factor.rank), left_.data(),
          static_cast<std::size_t>(factor.rank));
    std::fill_n(out, n, 0.0f);
    add_product(left_.data(), factor.rank,
                {factor.right_type, at(array(factor, 1), factor.right_type, column),
                 static_cast<std::size_t>(factor.columns)},
                1.0f, {row, column, 1, n, out, n});
  }

  void add_kronecker(Block block) {
    const Factor &a = change_.a, &b = change_.b;
    const std::uint64_t end = block.column + block.n_columns;
    const std::uint64_t low = block.column / b.columns, high = (end - 1) / b.columns + 1;
    outer_.resize(static_cast<std::size_t>(high - low));
    inner_.resize(static_cast<std::size_t>(b.columns));
    row_of(a, block.row / b.rows, low, outer_.size(), outer_.data());
    row_of(b, block.row % b.rows, 0, inner_.size(), inner_.data());
    for (std::uint64_t i = low; i < high; ++i) {
      const std::uint64_t from = std::max(i * b.columns, block.column);
      const std::uint64_t to = std::min((i + 1) * b.columns, end);
      add_product(&outer_[i - low], 1, {DType::f32, inner_.data() + (from - i * b.columns), 1},
                  change_.scale,
                  {block.row, from, 1, static_cast<std::size_t>(to - from),
                   block.values + (from - block.column), 1});
    }
  }

  void add_values() {
    const float one = 1.0f;
    add_product(&one, 1,
                {change_.a.type, at(array(change_.a), change_.a.type, piece_.at), piece_.n},
                change_.scale, {0, 0, 1, piece_.n, values_, piece_.n});
  }

  void multiply_row(Block block) {
    float factor;
    widen(change_.a.type, at(array(change_.a), change_.a.type, block.row - first_row_), &factor, 1);
    for (std::size_t j = 0; j < block.n_columns; ++j) block.values[j] *= factor;
  }

  void multiply_columns(Block block) {
    float factors[kColumns];
    for (std::size_t first = 0; first < block.n_columns; first += kColumns) {
      const std::size_t n = std::min(kColumns, block.n_columns - first);
      widen(change_.a.type, at(array(change_.a), change_.a.type, block.column + first), factors, n);
      for (std::size_t j = 0; j < n; ++j) block.values[first + j] *= factors[j];
    }
  }

  // Return the number of the row's record in the tile; kWhole for a row without.
  std::uint64_t record_of(const Block& block) const {
    const std::vector<std::uint64_t>& starts = *change_.starts;
    if (starts[block.row] == starts[block.row + 1]) return kWhole;
    return starts[block.row] - starts[first_row_];
  }

  void replace_row(Block block) {
    const std::uint64_t record = record_of(block);
    if (record == kWhole) return;
    widen(change_.a.type,
          at(array(change_.a), change_.a.type, record * change_.columns + block.column),
          block.values, block.n_columns);
  }

  void add_row(Block block) {
    const std::uint64_t record = record_of(block);
    if (record == kWhole) return;
    float values[kColumns];
    for (std::size_t first = 0; first < block.n_columns; first += kColumns) {
      const std::size_t n = std::min(kColumns, block.n_columns - first);
      widen(change_.a.type,
            at(array(change_.a), change_.a.type, record * change_.columns + block.column + first),
            values, n);
      for (std::size_t j = 0; j < n; ++j) block.values[first + j] += values[j];
    }
  }

  void divide_row(Block block) {
    const std::uint64_t record = record_of(block);
    if (record == kWhole) return;
    float divisor;
    widen(change_.a.type, at(array(change_.a), change_.a.type, record), &divisor, 1);
    for (std::size_t j = 0; j < block.n_columns; ++j) block.values[j] /= divisor;
  }

  const Piece& piece_;
  const Change& change_;
  const void* const* const arrays_;  // of the changes
  float* const values_;
  const std::uint64_t first_;      // element of the tensor with which the piece begins
  const std::uint64_t first_row_;  // whose records the tile begins with
  std::vector<float> left_, outer_, inner_;
};

}  // namespace

void make_changes(const Piece& piece, float* values) {
  for (const Change& change : piece.source.changes->steps) Changer(piece, change, values).run();
}

}  // namespace tallies
