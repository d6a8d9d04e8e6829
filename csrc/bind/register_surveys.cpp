#include "bind/plan.h"

namespace tallies::bind {
namespace {

void register_parts(py::module_& m) {
  py::class_<Overlap> overlap(m, "Overlap");
  bind_part(overlap)
      .def_readonly("alone", &Overlap::alone)
      .def_readonly("shared", &Overlap::shared);

  py::class_<SquareSums> squares(m, "SquareSums");
  bind_part(squares).def_property_readonly("values",
                                           [](const SquareSums& one) { return values(one.sums); });

  py::class_<StageSums> stage_sums(m, "StageSums");
  bind_part(stage_sums)
      .def_property_readonly("before", [](const StageSums& one) { return values(one.before); })
      .def_property_readonly("after", [](const StageSums& one) { return values(one.after); });

  py::class_<Differences> differences(m, "Differences");
  bind_part(differences)
      .def_readonly("n_different", &Differences::n_different)
      .def_readonly("n_nonfinite", &Differences::n_nonfinite)
      .def_readonly("n_flips", &Differences::n_flips)
      .def_readonly("largest", &Differences::largest)
      .def_property_readonly("sums", [](const Differences& one) {
        return values({one.sums.begin(), one.sums.end()});
      });

  py::class_<GramRows> gram(m, "GramRows");
  bind_part(gram).def("table", [](const GramRows& rows) {
    const std::vector<double> table = rows.table();
    return py::bytes(reinterpret_cast<const char*>(table.data()), table.size() * sizeof(double));
  });
}

}  // namespace

void register_surveys(py::module_& m) {
  register_parts(m);

  py::class_<VarianceTask>(m, "VarianceTask")
      .def(py::init([](const JobOrSlice& job, std::int32_t floor, std::uint64_t cutoff) {
             return VarianceTask{to_slice(job), floor, cutoff};
           }),
           py::kw_only(), py::arg("job"), py::arg("floor"), py::arg("cutoff"));
  py::class_<StageTask>(m, "StageTask")
      .def(py::init([](const JobOrSlice& job, std::vector<Stage> stages, std::uint64_t row_length) {
             return StageTask{to_slice(job), {std::move(stages), row_length}};
           }),
           py::kw_only(), py::arg("job"), py::arg("stages"), py::arg("row_length") = 0);
  py::class_<GramTask>(m, "GramTask")
      .def(py::init([](const JobOrSlice& job, std::uint64_t row_length) {
             return GramTask{to_slice(job), row_length};
           }),
           py::kw_only(), py::arg("job"), py::arg("row_length"));

  py::class_<CompareTask>(m, "CompareTask")
      .def(py::init([](const JobOrSlice& job, int elements) {
             return CompareTask{to_slice(job), to_enum<Elements>("elements", elements, 3)};
           }),
           py::kw_only(), py::arg("job"), py::arg("elements") = 0);

  py::class_<MatrixTask>(m, "MatrixTask")
      .def(py::init([](const JobOrSlice& job, std::uint64_t columns) {
             return MatrixTask{to_slice(job), columns};
           }),
           py::kw_only(), py::arg("job"), py::arg("columns"));

  plan_class(m)
      .def(
          "divergences",
          [](const Plan& plan, std::vector<MatrixTask> tasks, const Limits& limits,
             py::object progress) {
            check_base(plan);
            check(plan, tasks);
            for (const MatrixTask& task : tasks)
              check_length("inputs", plan.sources[task.slice.job].size(), 2, "base and expert");
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return divergences(plan, tasks, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("tasks"), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "column_products",
          [](const Plan& plan, std::vector<MatrixTask> tasks, bool deltas, const Limits& limits,
             py::object progress) {
            if (deltas) check_base(plan);
            check(plan, tasks);
            if (limits.n_threads != 1)
              refuse("n_threads", std::to_string(limits.n_threads), "1, for sums in order");
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return column_products(plan, tasks, deltas, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("tasks"), py::arg("deltas"), py::arg("limits"),
          py::arg("progress") = py::none())
      .def(
          "count_overlap",
          [](const Plan& plan, const std::vector<JobOrSlice>& jobs, std::int32_t floor,
             const Limits& limits, py::object progress) {
            check_base(plan);
            std::vector<Slice> slices;
            for (const JobOrSlice& job : jobs) {
              slices.push_back(to_slice(job));
              check(plan, slices.back());
            }
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return count_overlap(plan, slices, floor, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("jobs"), py::arg("floor"), py::arg("limits"),
          py::arg("progress") = py::none())
      .def(
          "sum_squares",
          [](const Plan& plan, std::vector<VarianceTask> tasks, const Limits& limits,
             py::object progress) {
            check(plan, tasks);
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return sum_squares(plan, tasks, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("tasks"), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "stage_sums",
          [](const Plan& plan, std::vector<StageTask> tasks, const Limits& limits,
             py::object progress) {
            check(plan, tasks);
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return stage_sums(plan, tasks, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("tasks"), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "compare",
          [](const Plan& plan, std::vector<CompareTask> tasks, const Limits& limits,
             py::object progress) {
            check(plan, tasks);
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return compare(plan, tasks, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("tasks"), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "gram",
          [](const Plan& plan, std::vector<GramTask> tasks, bool deltas, bool with_magnitudes,
             const Limits& limits, py::object progress) {
            const GramOptions options{deltas, with_magnitudes};
            check(plan, tasks, options);
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return gram(plan, tasks, options, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("tasks"), py::arg("deltas"), py::arg("with_magnitudes"),
          py::arg("limits"), py::arg("progress") = py::none());
}

}  // namespace tallies::bind
