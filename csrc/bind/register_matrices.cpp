#include <pybind11/stl.h>

#include "bind/arrays.h"
#include "bind/register.h"
#include "bind/watch.h"
#include "engine/matrices.h"

namespace tallies::bind {

void register_matrices(py::module_& m) {
  m.def(
      "read_delta",
      [](const Plan& plan, std::size_t job, std::size_t expert, Address out, const Limits& limits,
         py::object progress) {
        Watch watch(std::move(progress));
        const DeltaRead read = watch.run([&](const Progress& on_progress) {
          return read_delta(plan, job, expert, at<float>(out), limits, on_progress);
        });
        return std::pair(read.inputs, read.nonfinite);
      },
      py::arg("plan"), py::arg("job"), py::arg("expert"), py::arg("out"), py::arg("limits"),
      py::arg("progress") = py::none());
  m.def(
      "write_merged",
      [](const Plan& plan, std::size_t job, Address merged, float scale, const Limits& limits,
         py::object progress) {
        Watch watch(std::move(progress));
        const Restored written = watch.run([&](const Progress& on_progress) {
          return write_merged(plan, job, at<const float>(merged), scale, limits, on_progress);
        });
        return std::pair(written.output, written.overflow);
      },
      py::arg("plan"), py::arg("job"), py::arg("merged"), py::arg("scale"), py::arg("limits"),
      py::arg("progress") = py::none());
}

}  // namespace tallies::bind
