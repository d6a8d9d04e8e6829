#include <pybind11/stl.h>

#include "bind/register.h"
#include "bind/watch.h"
#include "engine/engine.h"

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

  py::class_<UnpackRule>(m, "UnpackRule")
      .def(py::init<std::size_t, float>(), py::arg("job"), py::arg("scale"));

  py::class_<UnpackResult>(m, "UnpackResult")
      .def_readonly("inputs", &UnpackResult::inputs)
      .def_readonly("output", &UnpackResult::output)
      .def_readonly("overflow", &UnpackResult::overflow);

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
      "unpack",
      [](const Plan& plan, const std::vector<UnpackRule>& rules, bool has_shared,
         const Limits& limits, py::object progress) {
        Watch watch(std::move(progress));
        return watch.run([&](const Progress& on_progress) {
          return unpack(plan, rules, has_shared, limits, on_progress);
        });
      },
      py::arg("plan"), py::arg("rules"), py::arg("has_shared"), py::arg("limits"),
      py::arg("progress") = py::none());
}

}  // namespace tallies::bind
