#include "bind/plan.h"
#include "engine/guesses.h"

namespace tallies::bind {
namespace {

CombineTask to_task(const JobOrSlice& job, std::vector<Candidate> candidates,
                    std::vector<Stage> stages, std::uint64_t row_length, std::vector<Draw> draws,
                    const ScoreNumbers& scores, int agreement, std::vector<float> lambdas,
                    int at_least, int unit) {
  if (!stages.empty() + !draws.empty() + !scores.empty() > 1)
    refuse("stages, draws and scores", "several of these", "one");
  Traits traits;
  if (!stages.empty()) traits = Stages{std::move(stages), row_length};
  if (!draws.empty()) traits = Draws{std::move(draws)};
  if (!scores.empty()) traits = to_scores(scores, agreement);
  std::optional<Consensus> consensus;
  if (!lambdas.empty()) consensus = Consensus{std::move(lambdas), at_least};
  for (Candidate& candidate : candidates) {
    candidate.traits = traits;
    candidate.consensus = consensus;
  }
  return {to_slice(job), std::move(candidates), unit};
}

using RuleCodes = std::tuple<int, int, int>;  // gate, vote, blend

// The candidates of several tasks on a slice in the order of the tasks, each by its task's rule.
CombineTask together(const std::vector<CombineTask>& tasks, const std::vector<RuleCodes>& rules,
                     const std::vector<int>& majorities, const JobOrSlice& job, int unit,
                     std::vector<int> first_searches) {
  first_searches.resize(unit < 0 ? tasks.size() : first_searches.size());
  check_length("first_searches", first_searches.size(), tasks.size(), "one for each task");
  check_length("rules", rules.size(), tasks.size(), "one for each task");
  check_length("majorities", majorities.size(), tasks.size(), "one for each task");
  CombineTask joined{to_slice(job), {}, unit};
  if (!tasks.empty()) joined.ranked_job = tasks[0].slice.job;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const Rule rule = std::apply(to_rule, rules[i]);
    for (Candidate candidate : tasks[i].candidates) {
      candidate.rule = rule;
      if (candidate.majority >= 0) candidate.majority = majorities[i];
      for (int& search : candidate.searches)
        if (search >= 0) search += first_searches[i];
      joined.candidates.push_back(std::move(candidate));
    }
  }
  return joined;
}

std::optional<std::uint64_t> length(const Slice& slice) {
  if (slice.n_elements == kRest) return {};
  return slice.n_elements;
}

void register_results(py::module_& m) {
  using Result = CandidateResult;
  py::class_<Result>(m, "CandidateResult")
      .def_property_readonly("sign_sum", [](const Result& r) { return r.tally.sign_sum; })
      .def_property_readonly("conflicts", [](const Result& r) { return r.tally.conflicts; })
      .def_property_readonly("cancellations", [](const Result& r) { return r.tally.cancellations; })
      .def_property_readonly("overflow", [](const Result& r) { return r.tally.overflow; })
      .def_property_readonly(
          "plus", [](const Result& r) { return std::pair(r.plus.ranges, r.plus.output); })
      .def_property_readonly(
          "minus", [](const Result& r) { return std::pair(r.minus.ranges, r.minus.output); })
      .def_readonly("output", &Result::output);
  py::class_<CombineResult>(m, "CombineResult")
      .def_readonly("inputs", &CombineResult::inputs)
      .def_readonly("candidates", &CombineResult::candidates);
}

void register_stages(py::module_& m) {
  py::class_<Draw>(m, "Draw").def(py::init<std::uint64_t, std::int32_t, float>(), py::kw_only(),
                                  py::arg("key"), py::arg("chance"), py::arg("factor") = 1.0f);
  py::class_<DropByRank>(m, "DropByRank")
      .def(py::init<std::uint64_t, float, float, bool, float>(), py::kw_only(), py::arg("key"),
           py::arg("low"), py::arg("step"), py::arg("own_factor") = false,
           py::arg("factor") = 1.0f);
  py::class_<Band>(m, "Band").def(
      py::init<std::int32_t, std::int32_t, std::uint64_t, std::uint64_t, float>(), py::kw_only(),
      py::arg("floor"), py::arg("ceiling"), py::arg("floor_cutoff"), py::arg("ceiling_cutoff"),
      py::arg("factor") = 1.0f);
  py::class_<RowBand>(m, "RowBand")
      .def(py::init<std::uint64_t, std::uint64_t, float>(), py::kw_only(), py::arg("n_outliers"),
           py::arg("n_kept"), py::arg("factor") = 1.0f);
  py::class_<Weighed>(m, "Weighed")
      .def(py::init([](std::vector<float> factors, std::uint64_t columns, bool by_column,
                       std::optional<std::int32_t> floor) {
             return Weighed{std::make_shared<const std::vector<float>>(std::move(factors)), columns,
                            by_column, floor.has_value(), floor.value_or(0)};
           }),
           py::kw_only(), py::arg("factors"), py::arg("columns"), py::arg("by_column") = false,
           py::arg("floor") = py::none());
}

}  // namespace

void register_combine(py::module_& m) {
  register_stages(m);
  register_results(m);

  py::class_<Candidate>(m, "Candidate")
      .def(py::init<std::vector<float>, std::uint64_t, std::vector<std::int32_t>,
                    std::vector<std::uint64_t>, float, float, int, int, std::vector<int>>(),
           py::kw_only(), py::arg("weights"), py::arg("row_length") = 0, py::arg("floors"),
           py::arg("cutoffs"), py::arg("scale") = 1.0f, py::arg("divisor") = 1.0f,
           py::arg("zero_sign") = 0, py::arg("majority") = -1,
           py::arg("searches") = std::vector<int>());

  py::class_<CombineTask>(m, "CombineTask")
      .def(py::init(&to_task), py::kw_only(), py::arg("job"), py::arg("candidates"),
           py::arg("stages") = std::vector<Stage>(), py::arg("row_length") = 0,
           py::arg("draws") = std::vector<Draw>(), py::arg("scores") = ScoreNumbers(),
           py::arg("agreement") = 0, py::arg("lambdas") = std::vector<float>(),
           py::arg("at_least") = 0, py::arg("unit") = -1)
      .def_static("together", &together, py::kw_only(), py::arg("tasks"), py::arg("rules"),
                  py::arg("majorities"), py::arg("job"), py::arg("unit") = -1,
                  py::arg("first_searches") = std::vector<int>())
      .def_property_readonly("job", [](const CombineTask& task) { return task.slice.job; })
      .def_property_readonly("first", [](const CombineTask& task) { return task.slice.first; })
      .def_property_readonly("n_elements",
                             [](const CombineTask& task) { return length(task.slice); })
      .def_readonly("unit", &CombineTask::unit)
      .def_property_readonly("majority", [](const CombineTask& task) {
        return task.candidates.empty() ? -1 : task.candidates[0].majority;
      });

  plan_class(m).def(
      "combine",
      [](const Plan& plan, std::vector<CombineTask> tasks, int gate, int vote, int blend,
         bool fingerprints, bool stop_at_overflow, const Limits& limits, py::object progress,
         Guesses* guesses, std::vector<std::int64_t> votes) {
        const CombineOptions options{to_rule(gate, vote, blend), fingerprints, stop_at_overflow,
                                     std::move(votes)};
        check(plan, tasks, options.rule);
        check(plan, tasks, guesses);
        return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
          return combine(plan, tasks, options, limits, on_progress, guesses);
        });
      },
      py::kw_only(), py::arg("tasks"), py::arg("gate"), py::arg("vote"), py::arg("blend"),
      py::arg("fingerprints") = false, py::arg("stop_at_overflow") = false, py::arg("limits"),
      py::arg("progress") = py::none(), py::arg("guesses") = py::none(),
      py::arg("votes") = std::vector<std::int64_t>());
}

}  // namespace tallies::bind
