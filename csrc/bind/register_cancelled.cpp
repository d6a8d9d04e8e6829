#include "bind/plan.h"
#include "engine/cancelled.h"

namespace tallies::bind {
namespace {

using WrongNumbers = std::tuple<std::int64_t, std::int64_t, std::vector<Range>>;

Wrong to_wrong(const Plan& plan, const WrongNumbers& numbers) {
  const auto& [job, row, ranges] = numbers;
  check_job(plan, job);
  Wrong wrong{static_cast<std::size_t>(job), static_cast<std::size_t>(row), ranges};
  const Job& of = plan.jobs[wrong.job];
  check_between("row", row, 0, static_cast<std::int64_t>(of.n_rows()) - 1);
  join_neighbours(wrong.ranges);
  std::uint64_t end = 0;
  for (const auto& [first, n] : wrong.ranges) {
    if (first < end || first > of.n_elements || n > of.n_elements - first)
      refuse("ranges", std::to_string(n) + " elements from " + std::to_string(first) + " on",
             "ranges apart among the " + std::to_string(of.n_elements) + " elements of the job");
    end = first + n;
  }
  return wrong;
}

}  // namespace

void register_cancelled(py::module_& m) {
  py::class_<Cancelled>(m, "CancelledVotes")
      .def(py::init<std::uint64_t>(), py::kw_only(), py::arg("list_bytes"))
      .def_property_readonly("n_bytes", &Cancelled::n_bytes);
  py::class_<Mended>(m, "Mended")
      .def_readonly("output", &Mended::output)
      .def_readonly("left", &Mended::left)
      .def_readonly("n_listed", &Mended::n_listed)
      .def_readonly("n_mended", &Mended::n_mended);
  plan_class(m).def(
      "mend",
      [](const Plan& plan, Cancelled& cancelled, const std::vector<WrongNumbers>& wrong,
         const Limits& limits, py::object progress) {
        std::vector<Wrong> checked;
        checked.reserve(wrong.size());
        for (const WrongNumbers& one : wrong) checked.push_back(to_wrong(plan, one));
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return mend(plan, cancelled, checked, limits, on_progress);
        });
      },
      py::kw_only(), py::arg("cancelled"), py::arg("wrong"), py::arg("limits"),
      py::arg("progress") = py::none());
}

}  // namespace tallies::bind
