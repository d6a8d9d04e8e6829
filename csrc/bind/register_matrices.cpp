#include "bind/arrays.h"
#include "bind/plan.h"
#include "engine/matrices.h"

namespace tallies::bind {
namespace {

Slice slice_of(const Plan& plan, std::int64_t job, std::uint64_t first,
               std::optional<std::uint64_t> n_elements) {
  Slice slice{static_cast<std::size_t>(job), first, n_elements.value_or(kRest)};
  check(plan, slice);
  return slice;
}

}  // namespace

void register_matrices(py::module_& m) {
  m.def(
      "read_delta",
      [](const Plan& plan, std::int64_t job, std::int64_t expert, Address out, const Limits& limits,
         py::object progress, std::uint64_t first, std::optional<std::uint64_t> n_elements) {
        check_delta(plan, job, expert);
        const Slice slice = slice_of(plan, job, first, n_elements);
        const DeltaRead read =
            run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return read_delta(plan, slice, static_cast<std::size_t>(expert), at<float>(out),
                                limits, on_progress);
            });
        return std::pair(read.inputs, read.nonfinite);
      },
      py::arg("plan"), py::arg("job"), py::arg("expert"), py::arg("out"), py::arg("limits"),
      py::arg("progress") = py::none(), py::arg("first") = 0, py::arg("n_elements") = py::none());
  m.def(
      "write_merged",
      [](const Plan& plan, std::int64_t job, Address merged, float scale, const Limits& limits,
         py::object progress, std::uint64_t first, std::optional<std::uint64_t> n_elements) {
        check_merged(plan, job);
        const Slice slice = slice_of(plan, job, first, n_elements);
        const Restored written =
            run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return write_merged(plan, slice, at<const float>(merged), scale, limits, on_progress);
            });
        return std::pair(written.output, written.overflow);
      },
      py::arg("plan"), py::arg("job"), py::arg("merged"), py::arg("scale"), py::arg("limits"),
      py::arg("progress") = py::none(), py::arg("first") = 0, py::arg("n_elements") = py::none());
}

}  // namespace tallies::bind
