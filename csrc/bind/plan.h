// How the methods of a plan are bound, in several files.
#pragma once

#include <pybind11/stl.h>

#include "bind/check.h"
#include "bind/watch.h"
#include "engine/parts.h"

namespace tallies::bind {

// The class that register_plan made.
inline py::class_<Plan> plan_class(const py::module_& m) {
  return py::class_<Plan>(m.attr("Plan"));
}

// Scores as Python has them: the numbers of each, in order.
using ScoreNumbers = std::vector<std::array<float, 5>>;
inline Scores to_scores(const ScoreNumbers& rows, int agreement) {
  Scores found{{}, to_enum<Agreement>("agreement", agreement, 2)};
  for (const auto& [low, high, per_width, threshold, per_range] : rows)
    found.scores.push_back({low, high, per_width, threshold, per_range});
  return found;
}

// Runs a pass without the GIL, its progress reported to Python.
template <class Pass>
auto run_pass(py::object progress, const Limits& limits, const Pass& pass) {
  check(limits);
  return Watch(std::move(progress)).run(pass);
}

// Adds what every part of a survey can do: be added to another, and become bytes and back.
template <class Part, class... Options>
py::class_<Part, Options...>& bind_part(py::class_<Part, Options...>& part) {
  part.def(
      "__iadd__",
      [](Part& sum, const Part& other) -> Part& {
        add(sum, Part(other));
        return sum;
      },
      py::return_value_policy::reference);
  part.def("to_bytes", [](const Part& one) { return py::bytes(to_bytes(one)); });
  part.def_static(
      "from_bytes", [](const py::bytes& data) { return from_bytes<Part>(std::string_view(data)); },
      py::arg("data"));
  return part;
}

}  // namespace tallies::bind
