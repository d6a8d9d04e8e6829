#include <pybind11/stl.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>

#include "bind/arrays.h"
#include "bind/check.h"
#include "bind/sources.h"
#include "core/error.h"
#include "engine/decode.h"
#include "engine/sparse.h"
#include "engine/weighted.h"

namespace tallies::bind {
namespace {

using Form = Source::Form;

constexpr int kPackedBits = -1;

// Far above every tensor in use.
constexpr std::uint64_t kMostRows = std::uint64_t(1) << 48;
// Far above every grain in use; the bytes of so many elements are no number near 2^64.
constexpr std::size_t kLargestGrain = std::size_t(1) << 24;

void require(bool is_right, const std::string& found, const std::string& expected) {
  if (!is_right) throw py::value_error("found " + found + ", expected " + expected);
}

std::uint64_t to_length(std::optional<std::uint64_t> length, const char* name) {
  require(!length || *length > 0, std::string(name) + " 0", "at least 1");
  return length.value_or(kWhole);
}

Operand plain(const Place& values, bool replaces) {
  return {{.type = to_dtype(std::get<2>(values)), .replaces = replaces}, {to_values(values)}, {}};
}

Operand scaled(const Place& values, const Place& scales, std::optional<std::uint64_t> row_length,
               std::optional<std::uint64_t> block_rows,
               std::optional<std::uint64_t> block_columns) {
  require(row_length || (!block_rows && !block_columns), "blocks without a row_length",
          "row_length=");
  Operand operand = plain(values, false);
  Source& source = operand.source;
  source.form = Form::scaled;
  source.scale_type = to_dtype(std::get<2>(scales));
  require(is_fused(source.scale_type), "scales of dtype " + std::to_string(std::get<2>(scales)),
          "float32, bfloat16 or float16");
  source.row_length = to_length(row_length, "row_length");
  source.block_rows = to_length(block_rows, "block_rows");
  source.block_columns = std::min(to_length(block_columns, "block_columns"), source.row_length);
  Array array = to_values(scales);
  array.record_bits *= static_cast<std::uint32_t>(source.blocks_across());
  array.per = source.per();
  operand.arrays.push_back(array);
  return operand;
}

Operand masked(const Place& values, const Place& mask, float scale) {
  Operand operand = plain(values, false);
  operand.source.form = Form::masked;
  operand.source.scale = scale;
  operand.arrays.push_back(to_mask(mask));
  return operand;
}

Operand signs(const Place& mask, float scale) {
  return {{.form = Form::signs, .scale = scale}, {to_mask(mask)}, {}};
}

Operand sparse(const Place& values, const Place& mask, const GroupStarts& starts, bool replaces) {
  Operand operand = plain(values, replaces);
  operand.source.form = Form::sparse;
  operand.arrays[0].per = starts.per;
  operand.arrays[0].starts = *starts.starts;
  operand.arrays.push_back(to_mask(mask));
  operand.starts = starts.starts;
  return operand;
}

Operand quantized(const Place& values, const Place& mask, const Place& scales,
                  const GroupStarts& starts, std::uint64_t row_length) {
  Operand operand = sparse(values, mask, starts, false);
  operand.source.form = Form::quantized;
  require(size_of(operand.source.type) == 1,
          "values of dtype " + std::to_string(std::get<2>(values)), "a dtype of one byte");
  require(std::get<2>(scales) == 0, "scales of dtype " + std::to_string(std::get<2>(scales)),
          "float32");
  operand.source.row_length = to_length(row_length, "row_length");
  Array array = to_values(scales);
  array.per = row_length;
  operand.arrays.push_back(array);
  return operand;
}

// Return the values of a source in other rows: its scales go with them.
Operand gathered(const Input& source, const StoredRows& stored, std::uint64_t columns,
                 std::uint64_t first_row) {
  const RowNumbers& rows = stored.rows;
  Operand operand = to_operand(source);
  Source& made = operand.source;
  require(!made.changes && (made.form == Form::plain || made.form == Form::scaled),
          "a source of another form", "plain or scaled values");
  require(columns > 0, "columns 0", "1 or more");
  require(made.row_length == kWhole || made.row_length == columns,
          "scaled rows of " + std::to_string(made.row_length), std::to_string(columns));
  require(columns < kMostRows / std::max<std::uint64_t>(rows->size(), 1),
          "columns " + std::to_string(columns), "rows in a file");
  require(first_row <= rows->size(), "first_row " + std::to_string(first_row),
          "0 to " + std::to_string(rows->size()));
  operand.arrays[0].rows = rows;
  operand.arrays[0].row_records = columns;
  operand.arrays[0].before = first_row * columns;
  if (made.form == Form::plain) return operand;
  // Each row has scales of its own, so that those of a row of zeros are zero too.
  std::vector<std::int64_t> scales(*rows);
  const std::uint64_t together = made.block_rows;
  for (std::int64_t& row : scales)
    if (row >= 0)
      row = made.per() == kWhole
                ? 0
                : static_cast<std::int64_t>(static_cast<std::uint64_t>(row) / together);
  made.row_length = columns;
  made.block_columns = std::min(made.block_columns, columns);
  made.block_rows = 1;
  operand.arrays[1].per = columns;
  operand.arrays[1].before = first_row * columns;
  operand.arrays[1].rows = std::make_shared<const std::vector<std::int64_t>>(std::move(scales));
  return operand;
}

// Adds an operand to a job: its arrays, and the source over them.
void add_operand(Plan& plan, Job& job, std::vector<Source>& sources, const Operand& operand) {
  require_elements(operand, job.n_elements);
  sources.push_back(operand.source);
  sources.back().array = static_cast<std::uint16_t>(job.inputs.size());
  job.inputs.insert(job.inputs.end(), operand.arrays.begin(), operand.arrays.end());
  // Whole blocks of rows are changed at once.
  if (operand.source.changes && job.unit == 1) {
    const std::uint64_t unit = kProductRows * operand.source.changes->columns();
    if (unit <= kLargestGrain) job.unit = static_cast<std::size_t>(unit);
  }
  if (operand.starts == nullptr) return;
  job.grain = static_cast<std::size_t>(std::lcm<std::uint64_t>(job.grain, operand.arrays[0].per));
  plan.starts.push_back(operand.starts);
}

StoredRows stored_rows(std::vector<std::int64_t> numbers) {
  for (const std::int64_t number : numbers)
    require(number < static_cast<std::int64_t>(kMostRows), "row " + std::to_string(number),
            "less than " + std::to_string(kMostRows));
  return {std::make_shared<const std::vector<std::int64_t>>(std::move(numbers))};
}

GroupStarts count_in_memory(Address mask, std::uint64_t n_elements) {
  const Files none;
  const auto go_on = [](std::uint64_t) { return true; };
  const Limits limits{1, std::size_t(1) << 20};
  return {count_masks(none, {{-1, mask, 1}}, {n_elements}, kChunk, limits, go_on)[0], kChunk};
}

}  // namespace

Operand to_operand(const Input& input) {
  if (const auto* place = std::get_if<Place>(&input)) return plain(*place, false);
  return std::get<Operand>(input);
}

DType to_dtype(int code) {
  require(code >= 0 && code < kDTypes, "dtype " + std::to_string(code),
          "0 to " + std::to_string(kDTypes - 1));
  return static_cast<DType>(code);
}

Array to_values(const Place& place) {
  const auto& [file, offset, dtype] = place;
  return {file, offset, static_cast<std::uint32_t>(8 * size_of(to_dtype(dtype)))};
}

Array to_mask(const Place& place) {
  const auto& [file, offset, dtype] = place;
  require(dtype == kPackedBits, "dtype " + std::to_string(dtype), "-1, packed bits");
  return {file, offset, 1};
}

Array to_array(const Place& place) {
  return std::get<2>(place) == kPackedBits ? to_mask(place) : to_values(place);
}

void require_elements(const Operand& operand, std::uint64_t n_elements) {
  const Source& source = operand.source;
  if (source.row_length != kWhole)
    require(
        n_elements % source.row_length == 0,
        std::to_string(n_elements) + " elements in rows of " + std::to_string(source.row_length),
        "whole rows");
  if (n_arrays(source.form) > 0 && operand.arrays[0].rows) {
    const Array& values = operand.arrays[0];
    const std::uint64_t n = values.rows->size() * values.row_records - values.before;
    require(n_elements <= n, std::to_string(n_elements) + " elements",
            "at most " + std::to_string(n) + ", those of all rows");
  }
  if (operand.starts == nullptr) return;
  const std::uint64_t per = operand.arrays[0].per;
  const std::uint64_t n_groups = (n_elements + per - 1) / per;
  require(operand.starts->size() == n_groups + 1,
          "counts of " + std::to_string(operand.starts->size() - 1) + " groups of elements",
          std::to_string(n_groups));
}

void add_job(Plan& plan, std::uint64_t n_elements, const std::vector<Input>& inputs,
             const std::vector<Place>& outputs, bool apart, std::size_t grain,
             const std::vector<std::size_t>& rows) {
  if (inputs.size() > static_cast<std::size_t>(kMaxExperts) + plan.has_base)
    throw Error(Error::Kind::request, "at most " + std::to_string(kMaxExperts) +
                                          " experts in one merge, found " +
                                          std::to_string(inputs.size() - plan.has_base));
  require(grain > 0 && grain % kGrain == 0 && grain <= kLargestGrain,
          "grain " + std::to_string(grain),
          "a multiple of " + std::to_string(kGrain) + " up to " + std::to_string(kLargestGrain));
  Job job{n_elements, {}, {}, grain};
  std::vector<Source> sources;
  for (const Input& input : inputs) add_operand(plan, job, sources, to_operand(input));
  if (!rows.empty()) check_length("rows", rows.size(), outputs.size(), "one for each output");
  for (std::size_t i = 0; i < outputs.size(); ++i)
    job.outputs.push_back({to_array(outputs[i]), !rows.empty() ? rows[i] : apart ? i : 0});
  for (const Array& array : job.inputs) check_array(plan, array);
  for (const Output& output : job.outputs) check_array(plan, output);
  if (!apart)
    for (const Place& place : outputs)
      require(std::get<2>(place) == std::get<2>(outputs[0]),
              "outputs of dtypes " + std::to_string(std::get<2>(outputs[0])) + " and " +
                  std::to_string(std::get<2>(place)) + " with the same values",
              "one dtype");
  plan.held.join(job);
  plan.jobs.push_back(std::move(job));
  plan.sources.push_back(std::move(sources));
  const int dtype = outputs.empty() ? kPackedBits : std::get<2>(outputs[0]);
  plan.output_types.push_back(dtype == kPackedBits ? DType::f32 : to_dtype(dtype));
}

void register_sources(py::module_& m) {
  py::class_<GroupStarts>(m, "Starts")
      .def_property_readonly("n_set",
                             [](const GroupStarts& starts) { return starts.starts->back(); });
  m.def("count_mask", &count_in_memory, py::kw_only(), py::arg("mask"), py::arg("n_elements"),
        Native());

  py::class_<StoredRows>(m, "StoredRows").def(py::init(&stored_rows), py::arg("numbers"));
  py::class_<Operand>(m, "Source")
      .def_static("plain", &plain, py::kw_only(), py::arg("values"), py::arg("replaces") = false)
      .def_static("scaled", &scaled, py::kw_only(), py::arg("values"), py::arg("scales"),
                  py::arg("row_length") = py::none(), py::arg("block_rows") = py::none(),
                  py::arg("block_columns") = py::none())
      .def_static("zero", [] { return Operand{{.form = Form::zero}, {}, {}}; })
      .def_static("gathered", &gathered, py::kw_only(), py::arg("source"), py::arg("rows"),
                  py::arg("columns"), py::arg("first_row") = 0)
      .def_static("masked", &masked, py::kw_only(), py::arg("values"), py::arg("mask"),
                  py::arg("scale"))
      .def_static("signs", &signs, py::kw_only(), py::arg("mask"), py::arg("scale"))
      .def_static("sparse", &sparse, py::kw_only(), py::arg("values"), py::arg("mask"),
                  py::arg("starts"), py::arg("replaces") = false)
      .def_static("quantized", &quantized, py::kw_only(), py::arg("values"), py::arg("mask"),
                  py::arg("scales"), py::arg("starts"), py::arg("row_length"))
      .def_static("changed", &changed, py::kw_only(), py::arg("source"), py::arg("changes"),
                  py::arg("first") = 0)
      .def(
          "decode",
          [](const Operand& source, std::uint64_t n_elements, int threads, Address out) {
            require_elements(source, n_elements);
            check_in_memory(source);
            require(threads >= 1, std::to_string(threads) + " threads", "1 or more");
            const FloatEnvironment environment;
            const py::gil_scoped_release release;
            decode_all(source, n_elements, threads, at<float>(out));
          },
          py::kw_only(), py::arg("n_elements"), py::arg("threads"), py::arg("out"));
}

}  // namespace tallies::bind
