#include <pybind11/stl.h>

#include "bind/register.h"
#include "bind/watch.h"
#include "engine/restore.h"

namespace tallies::bind {

void register_store(py::module_& m) {
  py::class_<PackRule>(m, "PackRule")
      .def(py::init<JobRule, std::vector<float>>(), py::arg("shared"), py::arg("lambdas"));

  py::class_<PackResult>(m, "PackResult")
      .def_property_readonly("conflicts", [](const PackResult& r) { return r.tally.conflicts; })
      .def_property_readonly("overflow", [](const PackResult& r) { return r.tally.overflow; })
      .def_readonly("inputs", &PackResult::inputs)
      .def_readonly("outputs", &PackResult::outputs)
      .def_readonly("n_set", &PackResult::n_set)
      .def_readonly("sums", &PackResult::sums)
      .def_readonly("sums_in_mask", &PackResult::sums_in_mask);

  py::class_<Restored>(m, "Restored")
      .def_readonly("inputs", &Restored::inputs)
      .def_readonly("output", &Restored::output)
      .def_readonly("overflow", &Restored::overflow);

  m.def(
      "pack",
      [](const Plan& plan, const std::vector<PackRule>& rules, const py::object& shared, int mask,
         bool with_sums, bool stop_at_overflow, const Limits& limits, py::object progress) {
        PackOptions options{
            !shared.is_none(), {}, static_cast<MaskRule>(mask), with_sums, stop_at_overflow};
        if (options.has_shared) {
          const auto [gate, vote, blend] = shared.cast<std::tuple<int, int, int>>();
          options.rule = to_rule(gate, vote, blend);
        }
        Watch watch(std::move(progress));
        return watch.run([&](const Progress& on_progress) {
          return pack(plan, rules, options, limits, on_progress);
        });
      },
      py::arg("plan"), py::arg("rules"), py::arg("shared"), py::arg("mask"), py::arg("with_sums"),
      py::arg("stop_at_overflow"), py::arg("limits"), py::arg("progress") = py::none());
  m.def(
      "restore",
      [](const Plan& plan, const Limits& limits, py::object progress) {
        for (std::size_t job = 0; job < plan.jobs.size(); ++job) {
          const std::size_t n_sources = plan.sources[job].size(),
                            n_outputs = plan.jobs[job].outputs.size();
          if (n_sources < 1 || n_sources > 2 || n_outputs == 0)
            throw py::value_error("job " + std::to_string(job) + ": found " +
                                  std::to_string(n_sources) + " inputs and " +
                                  std::to_string(n_outputs) +
                                  " outputs, expected a base, at most one delta, and an output");
        }
        Watch watch(std::move(progress));
        return watch.run([&](const Progress& on_progress) {
          return restore({plan.files, plan.jobs, plan.sources, plan.output_types}, limits,
                         on_progress);
        });
      },
      py::arg("plan"), py::arg("limits"), py::arg("progress") = py::none());
}

}  // namespace tallies::bind
