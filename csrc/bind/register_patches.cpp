#include <algorithm>
#include <bit>
#include <cstring>

#include "bind/arrays.h"
#include "bind/plan.h"
#include "cpu/ops.h"
#include "engine/apply_changes.h"
#include "engine/find_changes.h"

namespace tallies::bind {
namespace {

// Ends of blocks have 32 bits.
constexpr std::uint64_t kMostElements = ~std::uint32_t(0);

// Changes and the buffers that their bytes lie in.
struct Owned {
  std::vector<py::buffer_info> buffers;
  ChangedElements changes;
};
struct StoredChanges {
  std::shared_ptr<const ChangedElements> changes;
};

// Returns the index of a size in tables of kernels.
std::size_t unit_index(std::size_t unit) {
  if (!std::has_single_bit(unit) || unit > 8)
    refuse("unit", std::to_string(unit), "1, 2, 4 or 8 bytes");
  return static_cast<std::size_t>(std::countr_zero(unit));
}

std::span<const std::uint8_t> bytes_of(const py::buffer_info& buffer, const std::string& name) {
  if (!PyBuffer_IsContiguous(buffer.view(), 'C'))
    refuse(name, "a buffer with strides", "one whose bytes lie in order");
  return {static_cast<const std::uint8_t*>(buffer.ptr),
          static_cast<std::size_t>(buffer.size * buffer.itemsize)};
}

StoredChanges stored(int layout, int coding, std::uint64_t n_elements, std::size_t unit,
                     const py::buffer& positions, const py::buffer& values,
                     const py::buffer& blocks) {
  unit_index(unit);
  if (n_elements > kMostElements)
    refuse("n_elements", std::to_string(n_elements), "less than 2^32");
  const auto owned = std::make_shared<Owned>();
  ChangedElements& changes = owned->changes;
  changes = {.layout = to_enum<Layout>("layout", layout, kLayouts),
             .coding = to_enum<Coding>("coding", coding, kCodings),
             .n_elements = n_elements,
             .unit = unit};
  for (const py::buffer& buffer : {positions, values, blocks})
    owned->buffers.push_back(buffer.request());
  changes.positions = bytes_of(owned->buffers[0], "positions");
  changes.values = bytes_of(owned->buffers[1], "values");
  const std::span<const std::uint8_t> ends = bytes_of(owned->buffers[2], "blocks");
  if (ends.size() % sizeof(BlockEnds) != 0)
    refuse("blocks", std::to_string(ends.size()) + " bytes", "two numbers of 4 bytes a block");
  changes.blocks.resize(ends.size() / sizeof(BlockEnds));
  if (!ends.empty()) std::memcpy(changes.blocks.data(), ends.data(), ends.size());
  {
    const py::gil_scoped_release release;
    check(changes);
  }
  return {{owned, &changes}};
}

// Return the bits of an element of a plain source.
std::uint64_t element_bits(const Plan& plan, std::size_t job, std::size_t input) {
  const Source& source = plan.sources[job][input];
  const Array& array = plan.jobs[job].inputs[source.array];
  if (source.form != Source::Form::plain || source.changes || array.rows)
    refuse("inputs", "a source that is decoded", "elements as they are stored");
  return array.record_bits;
}

// Checks a slice of jobs with so many inputs and at most as many outputs.
void check_slice(const Plan& plan, Slice& slice, std::size_t n_inputs, std::size_t n_outputs) {
  check_job(plan, static_cast<std::int64_t>(slice.job));
  const Job& job = plan.jobs[slice.job];
  check_length("inputs", plan.sources[slice.job].size(), n_inputs, "as they are stored");
  for (std::size_t input = 0; input < n_inputs; ++input)
    if (element_bits(plan, slice.job, input) != job.inputs[0].record_bits)
      refuse("inputs", "elements of several sizes", "of one size");
  check_between("outputs", static_cast<std::int64_t>(job.outputs.size()), 0,
                static_cast<std::int64_t>(n_outputs));
  for (const Output& output : job.outputs)
    if (output.record_bits != job.inputs[0].record_bits)
      refuse("outputs", "elements of another size", "of the size of the input's");
  const std::uint64_t n = job.n_elements;
  if (slice.first > n || slice.first % kGrain != 0)
    refuse("first", std::to_string(slice.first),
           "a multiple of " + std::to_string(kGrain) + " up to " + std::to_string(n));
  if (slice.n_elements == kRest) slice.n_elements = n - slice.first;
  if (slice.n_elements > std::min<std::uint64_t>(n - slice.first, kMostElements))
    refuse("n_elements", std::to_string(slice.n_elements),
           "at most " + std::to_string(n - slice.first) + ", and less than 2^32");
}

void check_task(const Plan& plan, PatchTask& task) {
  check_slice(plan, task.slice, 1, 1);
  const std::uint64_t unit = plan.jobs[task.slice.job].inputs[0].record_bits / 8;
  for (const auto& changes : task.chain) {
    if (changes->n_elements != task.slice.n_elements)
      refuse("n_elements", std::to_string(changes->n_elements),
             std::to_string(task.slice.n_elements) + ", those of the slice");
    if (changes->unit != unit)
      refuse("unit", std::to_string(changes->unit), std::to_string(unit) + ", as the input's");
  }
}

// Benchmarks time the kernels alone, on memory that they have room in.
void register_kernels_alone(py::module_& m) {
  m.def(
      "compact",
      [](std::size_t unit, int coding, Address before, Address now, std::size_t n, Address mask,
         Address values) {
        return kernels().compact[unit_index(unit)](
            {at<const void>(before), at<const void>(now), n,
             to_enum<Coding>("coding", coding, kFoundCodings), at<std::uint8_t>(mask),
             at<void>(values)});
      },
      Native());
  m.def(
      "encode_gaps",
      [](Address mask, std::size_t n, Address gaps) {
        return kernels().encode_gaps(at<const std::uint8_t>(mask), n, at<std::uint8_t>(gaps));
      },
      Native());
  m.def(
      "gap_positions",
      [](Address gaps, std::size_t n_bytes, Address positions) {
        return kernels().gap_positions(at<const std::uint8_t>(gaps), n_bytes,
                                       at<std::uint16_t>(positions));
      },
      Native());
  m.def(
      "mask_positions",
      [](Address mask, std::size_t n, Address positions) {
        return kernels().mask_positions(at<const std::uint8_t>(mask), n,
                                        at<std::uint16_t>(positions));
      },
      Native());
  m.def(
      "scatter",
      [](std::size_t unit, int coding, Address positions, std::size_t n, Address values,
         Address elements) {
        const auto code = to_enum<Coding>("coding", coding, kCodings);
        kernels().scatter[unit_index(unit)][static_cast<std::size_t>(code)](
            at<const std::uint16_t>(positions), n, at<const void>(values), at<void>(elements));
      },
      Native());
  m.def(
      "gather",
      [](std::size_t unit, Address positions, std::size_t n, Address elements, Address values) {
        kernels().gather[unit_index(unit)](at<const std::uint16_t>(positions), n,
                                           at<const void>(elements), at<void>(values));
      },
      Native());
  m.def(
      "change_all",
      [](std::size_t unit, int coding, Address values, std::size_t n, Address elements) {
        const auto code = to_enum<Coding>("coding", coding, kCodings);
        kernels().change_all[unit_index(unit)][static_cast<std::size_t>(code)](
            at<const void>(values), n, at<void>(elements));
      },
      Native());
}

}  // namespace

void register_patches(py::module_& m) {
  register_kernels_alone(m);
  py::class_<Blob>(m, "Blob", py::buffer_protocol())
      .def_buffer([](const Blob& blob) {
        return py::buffer_info(blob.data(), static_cast<py::ssize_t>(blob.size()), true);
      })
      .def("__len__", &Blob::size);

  py::class_<FoundChanges>(m, "FoundChanges")
      .def_property_readonly(
          "layout", [](const FoundChanges& found) { return static_cast<int>(found.layout); })
      .def_readonly("n_changed", &FoundChanges::n_changed)
      .def_readonly("old", &FoundChanges::before)
      .def_readonly("new", &FoundChanges::now)
      .def_readonly("positions", &FoundChanges::positions)
      .def_readonly("values", &FoundChanges::values)
      .def_property_readonly("blocks", [](const FoundChanges& found) {
        return py::bytes(reinterpret_cast<const char*>(found.blocks.data()),
                         found.blocks.size() * sizeof(BlockEnds));
      });

  py::class_<StoredChanges>(m, "StoredChanges")
      .def(py::init(&stored), py::kw_only(), py::arg("layout"), py::arg("coding"),
           py::arg("n_elements"), py::arg("unit"), py::arg("positions") = py::bytes(),
           py::arg("values") = py::bytes(), py::arg("blocks") = py::bytes());

  py::class_<PatchTask>(m, "PatchTask")
      .def(py::init([](const Slice& slice, const std::vector<const StoredChanges*>& chain) {
             PatchTask task{slice, {}};
             for (const StoredChanges* const one : chain) task.chain.push_back(one->changes);
             return task;
           }),
           py::kw_only(), py::arg("slice"), py::arg("chain"));

  py::class_<Patched>(m, "Patched")
      .def_readonly("old", &Patched::before)
      .def_readonly("new", &Patched::now)
      .def_readonly("old_values", &Patched::old_values)
      .def_readonly("new_values", &Patched::new_values);

  m.def(
      "find_changes",
      [](const Plan& plan, std::vector<Slice> slices, int coding, const Limits& limits,
         py::object progress) {
        for (Slice& slice : slices) check_slice(plan, slice, 2, 0);
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return find_changes(plan, slices, to_enum<Coding>("coding", coding, kFoundCodings),
                              limits, on_progress);
        });
      },
      py::kw_only(), py::arg("plan"), py::arg("slices"), py::arg("coding"), py::arg("limits"),
      py::arg("progress") = py::none());
  m.def(
      "apply_changes",
      [](const Plan& plan, std::vector<PatchTask> tasks, const Limits& limits, bool with_old,
         bool with_new, bool with_values, py::object progress) {
        for (PatchTask& task : tasks) check_task(plan, task);
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return apply_changes(plan, tasks, {with_old, with_new, with_values}, limits, on_progress);
        });
      },
      py::kw_only(), py::arg("plan"), py::arg("tasks"), py::arg("limits"),
      py::arg("with_old") = true, py::arg("with_new") = true, py::arg("with_values") = false,
      py::arg("progress") = py::none());
}

}  // namespace tallies::bind
