#include "bind/arrays.h"
#include "bind/plan.h"
#include "engine/matrices.h"

namespace tallies::bind {

void register_matrices(py::module_& m) {
  m.def(
      "read_delta",
      [](const Plan& plan, std::int64_t job, std::int64_t expert, Address out, const Limits& limits,
         py::object progress) {
        check_delta(plan, job, expert);
        const DeltaRead read =
            run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return read_delta(plan, static_cast<std::size_t>(job),
                                static_cast<std::size_t>(expert), at<float>(out), limits,
                                on_progress);
            });
        return std::pair(read.inputs, read.nonfinite);
      },
      py::arg("plan"), py::arg("job"), py::arg("expert"), py::arg("out"), py::arg("limits"),
      py::arg("progress") = py::none());
  m.def(
      "write_merged",
      [](const Plan& plan, std::int64_t job, Address merged, float scale, const Limits& limits,
         py::object progress) {
        check_merged(plan, job);
        const Restored written =
            run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return write_merged(plan, static_cast<std::size_t>(job), at<const float>(merged),
                                  scale, limits, on_progress);
            });
        return std::pair(written.output, written.overflow);
      },
      py::arg("plan"), py::arg("job"), py::arg("merged"), py::arg("scale"), py::arg("limits"),
      py::arg("progress") = py::none());
}

}  // namespace tallies::bind
