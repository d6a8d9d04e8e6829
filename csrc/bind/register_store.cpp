#include "bind/plan.h"
#include "engine/restore.h"

namespace tallies::bind {

void register_store(py::module_& m) {
  py::class_<PackTask>(m, "PackTask")
      .def(py::init([](std::int64_t job, Candidate shared, std::vector<float> lambdas) {
             return PackTask{to_slice(job).job, std::move(shared), std::move(lambdas)};
           }),
           py::kw_only(), py::arg("job"), py::arg("shared"),
           py::arg("lambdas") = std::vector<float>());

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
      [](const Plan& plan, const std::vector<PackTask>& tasks,
         const std::optional<std::tuple<int, int, int>>& shared, int mask, bool with_sums,
         bool stop_at_overflow, const Limits& limits, py::object progress) {
        PackOptions options{shared.has_value(),
                            {},
                            to_enum<MaskRule>("mask", mask, 4),
                            with_sums,
                            stop_at_overflow};
        if (shared) options.rule = std::apply(to_rule, *shared);
        check(plan, tasks, options);
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return pack(plan, tasks, options, limits, on_progress);
        });
      },
      py::kw_only(), py::arg("plan"), py::arg("tasks"), py::arg("shared"), py::arg("mask"),
      py::arg("with_sums"), py::arg("stop_at_overflow"), py::arg("limits"),
      py::arg("progress") = py::none());
  m.def(
      "restore",
      [](const Plan& plan, const Limits& limits, py::object progress) {
        check_restored(plan);
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return restore({plan.files, plan.jobs, plan.sources, plan.output_types}, limits,
                         on_progress);
        });
      },
      py::arg("plan"), py::arg("limits"), py::arg("progress") = py::none());
}

}  // namespace tallies::bind
