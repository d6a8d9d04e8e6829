// Changes of a source by adapters, as Python states them.

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "bind/check.h"
#include "bind/sources.h"

namespace tallies::bind {
namespace {

using Form = Change::Form;
// A matrix of a Kronecker product, or the product of two.
using KroneckerFactor = std::variant<Place, ChangeOperand>;
using Shape = std::pair<std::uint64_t, std::uint64_t>;

// The bytes of a record are a number far below 2^64.
constexpr std::uint64_t kMostElements = std::uint64_t(1) << 56;

void require(bool is_right, const std::string& found, const std::string& expected) {
  if (!is_right) throw py::value_error("found " + found + ", expected " + expected);
}

std::uint64_t to_positive(std::uint64_t n, const char* name) {
  require(n > 0 && n < kMostElements, std::string(name) + " " + std::to_string(n),
          "1 to " + std::to_string(kMostElements - 1));
  return n;
}

// Return an array of which `per` elements share a record of `n` values.
Array shared(const Place& values, std::uint64_t n, std::uint64_t per) {
  Array array = to_values(values);
  require(n < kMostElements, std::to_string(n) + " values in a record",
          "less than " + std::to_string(kMostElements));
  array.record_bits *= n;
  array.per = per;
  return array;
}

Array kept(const Place& values, std::uint64_t n, std::uint64_t per = kWhole) {
  Array array = shared(values, n, per);
  array.is_kept = true;
  return array;
}

DType type_of(const Place& place) { return to_dtype(std::get<2>(place)); }

ChangeOperand product(const Place& left, const Place& right, std::uint64_t rank,
                      std::uint64_t columns, float scale, std::optional<std::uint64_t> matrix_rows,
                      std::uint64_t first_row, std::optional<std::uint64_t> n_rows) {
  to_positive(rank, "rank");
  to_positive(columns, "columns");
  require(rank < kMostElements / columns, "a right factor of too many values",
          "less than " + std::to_string(kMostElements));
  require(!matrix_rows || first_row == 0, "matrix_rows and a first_row", "one of them");
  require(first_row < kMostElements / columns, "first_row " + std::to_string(first_row),
          "a row of the tensor");
  Change change{.form = Form::product, .scale = scale, .columns = columns};
  change.a = {.type = type_of(left), .right_type = type_of(right), .rank = rank};
  std::uint64_t per = kWhole;
  if (matrix_rows) {
    change.matrix_rows = to_positive(*matrix_rows, "matrix_rows");
    require(*matrix_rows < kMostElements / columns, "matrix_rows " + std::to_string(*matrix_rows),
            "the rows of a matrix");
    per = *matrix_rows * columns;
  }
  ChangeOperand operand{change, {shared(left, rank, columns), kept(right, rank * columns, per)}};
  operand.change.first_row = first_row;
  if (n_rows) {
    require(*n_rows > 0 && *n_rows < kMostElements / columns, "n_rows " + std::to_string(*n_rows),
            "rows of the tensor");
    operand.change.end_row = first_row + *n_rows;
  }
  for (Array& array : operand.arrays) {
    array.begin = first_row * columns;
    if (n_rows) array.end = operand.change.end_row * columns;
  }
  return operand;
}

void require_product(const ChangeOperand& operand, const char* name) {
  require(operand.change.form == Form::product, std::string(name) + " of another form",
          "Change.product(...)");
}

ChangeOperand hadamard(const ChangeOperand& a, const ChangeOperand& b, float scale) {
  require_product(a, "a");
  require_product(b, "b");
  const auto rows = [](const Change& one) {
    return std::tie(one.columns, one.matrix_rows, one.first_row, one.end_row);
  };
  require(rows(a.change) == rows(b.change), "products of different rows or columns", "the same");
  ChangeOperand operand = a;
  operand.change.form = Form::hadamard;
  operand.change.scale = scale;
  operand.change.b = b.change.a;
  operand.change.b.array = 2;
  operand.arrays.insert(operand.arrays.end(), b.arrays.begin(), b.arrays.end());
  return operand;
}

// Adds a factor of a Kronecker product to its change.
Factor kronecker_factor(ChangeOperand& operand, const KroneckerFactor& stated, const Shape& shape) {
  const auto& [rows, columns] = shape;
  to_positive(rows, "rows of a factor");
  to_positive(columns, "columns of a factor");
  require(rows < kMostElements / columns, "a factor of too many values",
          "less than " + std::to_string(kMostElements));
  Factor factor;
  if (const auto* const place = std::get_if<Place>(&stated)) {
    factor.type = type_of(*place);
    factor.array = static_cast<std::uint16_t>(operand.arrays.size());
    operand.arrays.push_back(kept(*place, rows * columns));
  } else {
    const auto& both = std::get<ChangeOperand>(stated);
    require_product(both, "a factor");
    factor = both.change.a;
    require(both.change.columns == columns,
            "a product of " + std::to_string(both.change.columns) + " columns",
            std::to_string(columns));
    factor.array = static_cast<std::uint16_t>(operand.arrays.size());
    for (const Array& array : both.arrays) {
      const bool is_left = &array == both.arrays.data();
      const std::uint64_t n = factor.rank * (is_left ? rows : columns);
      Array whole{array.file, array.offset,
                  8 * size_of(is_left ? factor.type : factor.right_type) * n, kWhole};
      whole.is_kept = true;
      operand.arrays.push_back(whole);
    }
  }
  factor.rows = rows;
  factor.columns = columns;
  return factor;
}

ChangeOperand kronecker(const KroneckerFactor& left, const KroneckerFactor& right,
                        const Shape& left_shape, const Shape& right_shape, float scale) {
  ChangeOperand operand{{.form = Form::kronecker, .scale = scale}, {}};
  operand.change.a = kronecker_factor(operand, left, left_shape);
  operand.change.b = kronecker_factor(operand, right, right_shape);
  require(left_shape.second < kMostElements / right_shape.second, "too many columns",
          "less than " + std::to_string(kMostElements));
  operand.change.columns = left_shape.second * right_shape.second;
  return operand;
}

ChangeOperand one_array(Form form, const Place& values, std::uint64_t columns, Array array) {
  Change change{.form = form, .columns = to_positive(columns, "columns")};
  change.a.type = type_of(values);
  return {change, {array}};
}

ChangeOperand added(const Place& values, float scale) {
  ChangeOperand operand = one_array(Form::added, values, 1, to_values(values));
  operand.change.scale = scale;
  return operand;
}

ChangeOperand row_factors(const Place& factors, std::uint64_t columns) {
  return one_array(Form::row_factors, factors, columns, shared(factors, 1, columns));
}

ChangeOperand column_factors(const Place& factors, std::uint64_t columns) {
  return one_array(Form::column_factors, factors, columns, kept(factors, columns));
}

// Return a change of some rows alone, which have one record each.
ChangeOperand some_rows(Form form, const std::vector<std::uint64_t>& indices, const Place& values,
                        std::uint64_t columns, std::uint64_t n_values) {
  require(!indices.empty() && std::ranges::is_sorted(indices, std::less_equal<>()) &&
              indices.back() < kMostElements / to_positive(columns, "columns"),
          "indices", "ascending ones, at least one");
  std::vector<std::uint64_t> starts(static_cast<std::size_t>(indices.back()) + 2);
  for (const std::uint64_t row : indices) starts[static_cast<std::size_t>(row) + 1] = 1;
  for (std::size_t row = 1; row < starts.size(); ++row) starts[row] += starts[row - 1];
  ChangeOperand operand = one_array(form, values, columns, shared(values, n_values, columns));
  operand.change.starts = std::make_shared<const std::vector<std::uint64_t>>(std::move(starts));
  operand.change.end_row = indices.back() + 1;
  operand.arrays[0].starts = *operand.change.starts;
  operand.arrays[0].end = operand.change.end_row * columns;
  return operand;
}

ChangeOperand rows(const std::vector<std::uint64_t>& indices, const Place& values,
                   std::uint64_t columns, const std::optional<StoredRows>& taken, bool added) {
  const Form form = added ? Form::added_rows : Form::rows;
  ChangeOperand operand = some_rows(form, indices, values, columns, columns);
  if (!taken) return operand;
  require(taken->rows->size() == indices.size(),
          std::to_string(taken->rows->size()) + " rows taken",
          std::to_string(indices.size()) + ", one for each index");
  operand.arrays[0].rows = taken->rows;
  return operand;
}

ChangeOperand row_divisors(const std::vector<std::uint64_t>& indices, const Place& divisors,
                           std::uint64_t columns) {
  return some_rows(Form::row_divisors, indices, divisors, columns, 1);
}

}  // namespace

Operand changed(const Input& source, const std::vector<ChangeOperand>& changes,
                std::uint64_t first) {
  require(!changes.empty(), "no changes", "one or more");
  Operand operand = to_operand(source);
  require(operand.source.changes == nullptr, "a source with changes", "all changes together");
  operand.source.replaces = false;
  operand.source.before = first;
  ChangeList list;
  for (const auto& [change, arrays] : changes) {
    Change& step = list.steps.emplace_back(change);
    step.a.array = static_cast<std::uint16_t>(step.a.array + list.n_arrays);
    step.b.array = static_cast<std::uint16_t>(step.b.array + list.n_arrays);
    list.n_arrays += arrays.size();
    for (Array array : arrays) {
      array.before = first;
      operand.arrays.push_back(array);
    }
  }
  operand.source.changes = std::make_shared<const ChangeList>(std::move(list));
  return operand;
}

void register_changes(py::module_& m) {
  py::class_<ChangeOperand>(m, "Change")
      .def_static("product", &product, py::kw_only(), py::arg("left"), py::arg("right"),
                  py::arg("rank"), py::arg("columns"), py::arg("scale") = 1.0f,
                  py::arg("matrix_rows") = py::none(), py::arg("first_row") = 0,
                  py::arg("n_rows") = py::none())
      .def_static("hadamard", &hadamard, py::kw_only(), py::arg("a"), py::arg("b"),
                  py::arg("scale") = 1.0f)
      .def_static("kronecker", &kronecker, py::kw_only(), py::arg("left"), py::arg("right"),
                  py::arg("left_shape"), py::arg("right_shape"), py::arg("scale") = 1.0f)
      .def_static("added", &added, py::kw_only(), py::arg("values"), py::arg("scale") = 1.0f)
      .def_static("row_factors", &row_factors, py::kw_only(), py::arg("factors"),
                  py::arg("columns"))
      .def_static("column_factors", &column_factors, py::kw_only(), py::arg("factors"),
                  py::arg("columns"))
      .def_static("rows", &rows, py::kw_only(), py::arg("indices"), py::arg("values"),
                  py::arg("columns"), py::arg("taken") = py::none(), py::arg("added") = false)
      .def_static("row_divisors", &row_divisors, py::kw_only(), py::arg("indices"),
                  py::arg("divisors"), py::arg("columns"));
}

}  // namespace tallies::bind
