#include "bind/plan.h"
#include "bind/sources.h"
#include "engine/sparse.h"

namespace tallies::bind {
namespace {

// Mask, values, scales.
using Places = std::tuple<Place, Place, Place>;

SparseEntries to_entries(const Places& places, const SparseRule& rule) {
  const auto& [mask, values, scales] = places;
  return {to_mask(mask), to_values(values),
          rule.values == SparseValues::quantized ? to_values(scales) : Array{},
          to_dtype(std::get<2>(values))};
}

// Stays on this side: Python hands it from one pass to the next.
struct Counts {
  SparseCounts each;
};

}  // namespace

void register_sparse(py::module_& m) {
  py::class_<SparseRule>(m, "SparseRule")
      .def(py::init([](std::size_t job, int values, std::int32_t floor, std::uint64_t row_length) {
             if (values < 0 || values > 2)
               throw py::value_error("found values " + std::to_string(values) +
                                     ", expected 0, 1 or 2");
             if (row_length == 0) throw py::value_error("found row_length 0, expected at least 1");
             return SparseRule{job, static_cast<SparseValues>(values), floor, row_length};
           }),
           py::arg("job"), py::arg("values"), py::arg("floor"), py::arg("row_length"));

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

  m.def(
      "count_sparse",
      [](const Plan& plan, const std::vector<SparseRule>& rules, const Limits& limits,
         py::object progress) {
        check(plan, rules);
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return Counts{count_sparse(plan, rules, limits, on_progress)};
        });
      },
      py::arg("plan"), py::arg("rules"), py::arg("limits"), py::arg("progress") = py::none());
  m.def(
      "pack_sparse",
      [](const Plan& plan, const std::vector<SparseRule>& rules, const Counts& counts,
         const std::vector<Places>& entries, const Limits& limits, py::object progress) {
        if (rules.size() != entries.size() || rules.size() != counts.each.size())
          throw py::value_error("found " + std::to_string(entries.size()) + " entries and " +
                                std::to_string(counts.each.size()) + " counts, expected " +
                                std::to_string(rules.size()) + ", one for each rule");
        std::vector<SparseEntries> to;
        for (std::size_t i = 0; i < rules.size(); ++i)
          to.push_back(to_entries(entries[i], rules[i]));
        check(plan, rules, counts.each, to);
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return pack_sparse(plan, rules, counts.each, to, limits, on_progress);
        });
      },
      py::arg("plan"), py::arg("rules"), py::arg("counts"), py::arg("entries"), py::arg("limits"),
      py::arg("progress") = py::none());
  m.def(
      "count_masks",
      [](const Plan& plan, const std::vector<std::pair<std::uint64_t, Place>>& masks,
         const Limits& limits, py::object progress) {
        std::vector<Array> arrays;
        std::vector<std::uint64_t> n_elements;
        for (const auto& [n, place] : masks) {
          arrays.push_back(to_mask(place));
          check_array(plan, arrays.back());
          n_elements.push_back(n);
        }
        std::vector<GroupStarts> counts;
        for (const Starts& starts :
             run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
               return count_masks(plan.files, arrays, n_elements, kStrip, limits, on_progress);
             }))
          counts.push_back({starts, kStrip});
        return counts;
      },
      py::arg("plan"), py::arg("masks"), py::arg("limits"), py::arg("progress") = py::none());
}

}  // namespace tallies::bind
