#include <pybind11/stl.h>

#include "bind/register.h"
#include "bind/watch.h"
#include "engine/sparse.h"

namespace tallies::bind {
namespace {

// (file or -1, offset or address, dtype or -1 for packed bits)
using Place = std::tuple<int, std::uint64_t, int>;
// Mask, values, scales.
using Places = std::tuple<Place, Place, Place>;

Array to_array(const Place& place) {
  const auto& [file, offset, dtype] = place;
  return {file, offset, dtype < 0 ? 1 : 8 * size_of(static_cast<DType>(dtype))};
}

SparseEntries to_entries(const Places& places) {
  const auto& [mask, values, scales] = places;
  return {to_array(mask), to_array(values), to_array(scales),
          static_cast<DType>(std::get<2>(values))};
}

SparseTensor to_tensor(std::uint64_t n_elements, int values, std::uint64_t n_rows,
                       const Place& base, const Places& entries,
                       const std::vector<Place>& outputs) {
  SparseTensor tensor{n_elements,
                      static_cast<SparseValues>(values),
                      n_rows,
                      to_array(base),
                      static_cast<DType>(std::get<2>(base)),
                      to_entries(entries),
                      {}};
  for (const Place& place : outputs) tensor.outputs.push_back({to_array(place)});
  return tensor;
}

// Stays on this side: Python hands it from one pass to the next.
struct Counts {
  SparseCounts each;
};

}  // namespace

void register_sparse(py::module_& m) {
  py::class_<SparseRule>(m, "SparseRule")
      .def(py::init([](std::size_t job, int values, std::int32_t floor, std::uint64_t n_rows) {
             return SparseRule{job, static_cast<SparseValues>(values), floor, n_rows};
           }),
           py::arg("job"), py::arg("values"), py::arg("floor"), py::arg("n_rows"));

  py::class_<SparseTensor>(m, "SparseTensor")
      .def(py::init(&to_tensor), py::arg("n_elements"), py::arg("values"), py::arg("n_rows"),
           py::arg("base"), py::arg("entries"), py::arg("outputs"));

  py::class_<Counts>(m, "SparseCounts")
      .def_property_readonly("n_set",
                             [](const Counts& counts) {
                               std::vector<std::uint64_t> n_set;
                               for (const SparseCount& count : counts.each)
                                 n_set.push_back(count.n_set());
                               return n_set;
                             })
      .def_property_readonly("nonfinite", [](const Counts& counts) {
        std::vector<bool> nonfinite;
        for (const SparseCount& count : counts.each) nonfinite.push_back(count.nonfinite);
        return nonfinite;
      });

  py::class_<SparseWritten>(m, "SparseWritten")
      .def_readonly("inputs", &SparseWritten::inputs)
      .def_readonly("mask", &SparseWritten::mask)
      .def_readonly("overflow", &SparseWritten::overflow);

  py::class_<SparseRead>(m, "SparseRead")
      .def_readonly("base", &SparseRead::base)
      .def_readonly("mask", &SparseRead::mask)
      .def_readonly("values", &SparseRead::values)
      .def_readonly("output", &SparseRead::output)
      .def_readonly("overflow", &SparseRead::overflow);

  m.def(
      "count_sparse",
      [](const Plan& plan, const std::vector<SparseRule>& rules, const Limits& limits,
         py::object progress) {
        Watch watch(std::move(progress));
        return watch.run([&](const Progress& on_progress) {
          return Counts{count_sparse(plan, rules, limits, on_progress)};
        });
      },
      py::arg("plan"), py::arg("rules"), py::arg("limits"), py::arg("progress") = py::none());
  m.def(
      "pack_sparse",
      [](const Plan& plan, const std::vector<SparseRule>& rules, const Counts& counts,
         const std::vector<Places>& entries, const Limits& limits, py::object progress) {
        std::vector<SparseEntries> to;
        for (const Places& places : entries) to.push_back(to_entries(places));
        Watch watch(std::move(progress));
        return watch.run([&](const Progress& on_progress) {
          return pack_sparse(plan, rules, counts.each, to, limits, on_progress);
        });
      },
      py::arg("plan"), py::arg("rules"), py::arg("counts"), py::arg("entries"), py::arg("limits"),
      py::arg("progress") = py::none());
  m.def(
      "count_masks",
      [](const Plan& plan, const std::vector<SparseTensor>& tensors, const Limits& limits,
         py::object progress) {
        Watch watch(std::move(progress));
        return watch.run([&](const Progress& on_progress) {
          return Counts{count_masks(plan.files, tensors, limits, on_progress)};
        });
      },
      py::arg("plan"), py::arg("tensors"), py::arg("limits"), py::arg("progress") = py::none());
  m.def(
      "unpack_sparse",
      [](const Plan& plan, const std::vector<SparseTensor>& tensors, const Counts& counts,
         const Limits& limits, py::object progress) {
        Watch watch(std::move(progress));
        return watch.run([&](const Progress& on_progress) {
          return unpack_sparse(plan.files, tensors, counts.each, limits, on_progress);
        });
      },
      py::arg("plan"), py::arg("tensors"), py::arg("counts"), py::arg("limits"),
      py::arg("progress") = py::none());
}

}  // namespace tallies::bind
