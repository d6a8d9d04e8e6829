// Changes of the float32 values of a source by adapters; a source is a matrix in row-major order.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "stream/array.h"

namespace tallies {

using Starts = std::shared_ptr<const std::vector<std::uint64_t>>;

// Rows of which the kernel for products makes a multiple at once.
inline constexpr std::uint64_t kProductRows = 8;

// A matrix that is stored, or the product of two stored ones.
struct Factor {
  DType type = DType::f32;        // of the matrix, or of the left one
  DType right_type = DType::f32;  // of the right one
  std::uint16_t array = 0;  // counted from the first array of the source; the next is the right
  std::uint64_t rank = 0;   // columns of the left one; 0 for a stored matrix
  std::uint64_t rows = 0, columns = 0;  // of a Kronecker product's factors

  std::uint16_t n_arrays() const { return rank == 0 ? 1 : 2; }
};

// One step, which changes the values that the steps before made.
struct Change {
  enum class Form : std::uint8_t {
    product,         // += scale * (a.left @ a.right)
    hadamard,        // += scale * (a.left @ a.right) * (b.left @ b.right)
    kronecker,       // += scale * kron(a, b)
    added,           // += scale * a
    row_factors,     // *= a[row]
    column_factors,  // *= a[column]
    rows,            // = the next row of a, in rows that have a record
    added_rows,      // += the next row of a, in rows that have a record
    row_divisors,    // /= the next value of a, in rows that have a record
  };
  Form form = Form::added;
  float scale = 1.0f;
  std::uint64_t columns = 1;           // elements of a row
  std::uint64_t matrix_rows = kWhole;  // of each matrix of a stack; factors have as many matrices
  std::uint64_t first_row = 0, end_row = kWhole;  // which are changed
  Factor a = {}, b = {};
  Starts starts = {};  // where only some rows have a record: the records before each row
};

struct ChangeList {
  std::vector<Change> steps;
  std::size_t n_arrays = 0;

  // Elements of a row, of which whole ones are best changed together.
  std::uint64_t columns() const { return steps[0].columns; }
};
using Changes = std::shared_ptr<const ChangeList>;

}  // namespace tallies
