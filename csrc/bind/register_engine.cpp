#include <pybind11/stl.h>

#include "bind/sources.h"
#include "bind/watch.h"
#include "core/error.h"
#include "engine/engine.h"

namespace tallies::bind {
namespace {

// The numbers of a Score, in order.
using Numbers = std::array<float, 5>;

std::vector<Score> to_scores(const std::vector<Numbers>& rows) {
  std::vector<Score> scores;
  for (const auto& [low, high, per_width, threshold, per_range] : rows)
    scores.push_back({low, high, per_width, threshold, per_range});
  return scores;
}

}  // namespace

Rule to_rule(int gate, int vote, int blend) {
  const Rule rule{static_cast<Gate>(gate), static_cast<Vote>(vote), static_cast<Blend>(blend)};
  if (index_of(rule) < 0) throw Error(Error::Kind::request, "this rule is not compiled");
  return rule;
}

void register_engine(py::module_& m) {
  m.def("rules", [] {
    std::vector<std::tuple<std::string, std::string, std::string>> words;
    for (int i = 0; i < kNRules; ++i)
      if (stands_alone(kRules[i]))
        words.emplace_back(kRuleWords[i].gate, kRuleWords[i].vote, kRuleWords[i].blend);
    return words;
  });

  py::class_<Limits>(m, "Limits")
      .def(py::init<int, std::size_t, std::size_t, std::size_t>(), py::arg("n_threads"),
           py::arg("buffer_bytes"), py::arg("tile_bytes") = kTileBytes, py::arg("device_bytes") = 0)
      .def_readonly("n_threads", &Limits::n_threads)
      .def_readonly("buffer_bytes", &Limits::buffer_bytes);

  py::class_<Unit>(m, "Unit").def(
      py::init<std::vector<std::size_t>, std::vector<std::uint64_t>, float>(), py::arg("jobs"),
      py::arg("ranks"), py::arg("share") = 0.0f);

  py::class_<Threshold>(m, "Threshold")
      .def_readonly("bits", &Threshold::bits)
      .def_readonly("n_above", &Threshold::n_above)
      .def_readonly("n_equal", &Threshold::n_equal)
      .def_readonly("largest", &Threshold::largest)
      .def_readonly("rank", &Threshold::rank)
      .def_readonly("last_job", &Threshold::last_job)
      .def_readonly("last_count", &Threshold::last_count);

  py::class_<StageRule>(m, "StageRule")
      .def(py::init<float, std::uint64_t, std::int32_t, float, float, bool, std::int32_t,
                    std::int32_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>(),
           py::kw_only(), py::arg("factor") = 1.0f, py::arg("key") = 0,
           py::arg("chance") = kCertain, py::arg("low") = 0.0f, py::arg("step") = 0.0f,
           py::arg("own_factor") = false, py::arg("floor") = 0, py::arg("ceiling") = 0,
           py::arg("floor_cutoff") = 0, py::arg("ceiling_cutoff") = 0, py::arg("n_outliers") = 0,
           py::arg("n_kept") = 0);

  py::class_<JobRule>(m, "JobRule")
      .def(py::init([](std::size_t job, std::uint64_t first, std::uint64_t n_elements,
                       std::vector<float> weights, std::vector<std::int32_t> floors,
                       std::vector<std::uint64_t> cutoffs, float scale, float divisor,
                       int zero_sign, int majority, std::vector<float> lambdas, int at_least,
                       std::vector<StageRule> stages, std::uint64_t row_length,
                       const std::vector<Numbers>& scores, int agreement) {
             return JobRule{job,
                            first,
                            n_elements,
                            std::move(weights),
                            std::move(floors),
                            std::move(cutoffs),
                            scale,
                            divisor,
                            zero_sign,
                            majority,
                            std::move(lambdas),
                            at_least,
                            std::move(stages),
                            row_length,
                            to_scores(scores),
                            static_cast<Agreement>(agreement)};
           }),
           py::arg("job"), py::arg("first"), py::arg("n_elements"), py::arg("weights"),
           py::arg("floors"), py::arg("cutoffs"), py::arg("scale"), py::arg("divisor"),
           py::arg("zero_sign"), py::arg("majority"), py::arg("lambdas") = std::vector<float>(),
           py::arg("at_least") = 0, py::arg("stages") = std::vector<StageRule>(),
           py::arg("row_length") = 0, py::arg("scores") = std::vector<Numbers>(),
           py::arg("agreement") = 0);

  py::class_<Overlap>(m, "Overlap")
      .def_readonly("alone", &Overlap::alone)
      .def_readonly("shared", &Overlap::shared);

  py::class_<JobResult>(m, "JobResult")
      .def_property_readonly("sign_sum", [](const JobResult& r) { return r.tally.sign_sum; })
      .def_property_readonly("conflicts", [](const JobResult& r) { return r.tally.conflicts; })
      .def_property_readonly("cancellations",
                             [](const JobResult& r) { return r.tally.cancellations; })
      .def_property_readonly("overflow", [](const JobResult& r) { return r.tally.overflow; })
      .def_property_readonly(
          "plus", [](const JobResult& r) { return std::pair(r.plus.ranges, r.plus.output); })
      .def_property_readonly(
          "minus", [](const JobResult& r) { return std::pair(r.minus.ranges, r.minus.output); })
      .def_readonly("inputs", &JobResult::inputs)
      .def_readonly("output", &JobResult::output);

  py::class_<Plan>(m, "Plan")
      .def(py::init([](bool has_base) {
             auto plan = std::make_unique<Plan>();
             plan->has_base = has_base;
             return plan;
           }),
           py::arg("has_base"))
      .def("open_to_read",
           [](Plan& plan, const std::string& path) { return plan.files.open_to_read(path); })
      .def("open_to_write",
           [](Plan& plan, const std::string& path, std::uint64_t n_bytes) {
             const py::gil_scoped_release release;
             return plan.files.open_to_write(path, n_bytes);
           })
      .def("write",
           [](const Plan& plan, int file, const py::bytes& data, std::uint64_t offset) {
             const std::string_view view = data;
             plan.files.write(file, view.data(), view.size(), offset);
           })
      .def("sync",
           [](const Plan& plan, int file) {
             const py::gil_scoped_release release;
             plan.files.sync(file);
           })
      .def("add_job", &add_job, py::arg("n_elements"), py::arg("inputs"), py::arg("outputs"),
           py::arg("apart") = false, py::arg("grain") = kGrain)
      .def(
          "select",
          [](const Plan& plan, const std::vector<Unit>& units, bool locate, const Limits& limits,
             py::object progress, int measure, const std::vector<Numbers>& scores, int agreement,
             std::vector<std::vector<StageRule>> draws) {
            const Ranking ranking{static_cast<Measure>(measure), to_scores(scores),
                                  static_cast<Agreement>(agreement), std::move(draws)};
            Watch watch(std::move(progress));
            return watch.run([&](const Progress& on_progress) {
              return select(plan, units, ranking, locate, limits, on_progress);
            });
          },
          py::arg("units"), py::arg("locate"), py::arg("limits"), py::arg("progress") = py::none(),
          py::arg("measure") = 0, py::arg("scores") = std::vector<Numbers>(),
          py::arg("agreement") = 0, py::arg("draws") = std::vector<std::vector<StageRule>>())
      .def(
          "count_overlap",
          [](const Plan& plan, const std::vector<std::size_t>& jobs, std::int32_t floor,
             const Limits& limits, py::object progress) {
            Watch watch(std::move(progress));
            return watch.run([&](const Progress& on_progress) {
              return count_overlap(plan, jobs, floor, limits, on_progress);
            });
          },
          py::arg("jobs"), py::arg("floor"), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "sum_squares",
          [](const Plan& plan, const std::vector<JobRule>& rules, const Limits& limits,
             py::object progress) {
            Watch watch(std::move(progress));
            return watch.run([&](const Progress& on_progress) {
              return sum_squares(plan, rules, limits, on_progress);
            });
          },
          py::arg("rules"), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "combine",
          [](const Plan& plan, const std::vector<JobRule>& rules, int gate, int vote, int blend,
             bool fingerprints, bool stop_at_overflow, const Limits& limits, py::object progress,
             int stage) {
            const CombineOptions options{to_rule(gate, vote, blend), static_cast<Stage>(stage),
                                         fingerprints, stop_at_overflow};
            Watch watch(std::move(progress));
            return watch.run([&](const Progress& on_progress) {
              return combine(plan, rules, options, limits, on_progress);
            });
          },
          py::arg("rules"), py::arg("gate"), py::arg("vote"), py::arg("blend"),
          py::arg("fingerprints"), py::arg("stop_at_overflow"), py::arg("limits"),
          py::arg("progress") = py::none(), py::arg("stage") = 0)
      .def(
          "gram",
          [](const Plan& plan, const std::vector<std::pair<std::size_t, std::uint64_t>>& rows,
             bool deltas, bool with_magnitudes, const Limits& limits, py::object progress) {
            std::vector<GramRule> rules;
            for (const auto& [job, row_length] : rows) rules.push_back({job, row_length});
            Watch watch(std::move(progress));
            const auto found = watch.run([&](const Progress& on_progress) {
              return gram(plan, rules, {deltas, with_magnitudes}, limits, on_progress);
            });
            py::list sums;
            for (const std::vector<double>& one : found)
              sums.append(py::bytes(reinterpret_cast<const char*>(one.data()),
                                    one.size() * sizeof(double)));
            return sums;
          },
          py::arg("rows"), py::arg("deltas"), py::arg("with_magnitudes"), py::arg("limits"),
          py::arg("progress") = py::none())
      .def(
          "stage_sums",
          [](const Plan& plan, const std::vector<JobRule>& rules, int stage, const Limits& limits,
             py::object progress) {
            Watch watch(std::move(progress));
            std::vector<std::pair<std::vector<double>, std::vector<double>>> found;
            for (StageSums& sums : watch.run([&](const Progress& on_progress) {
                   return stage_sums(plan, rules, static_cast<Stage>(stage), limits, on_progress);
                 }))
              found.emplace_back(std::move(sums.before), std::move(sums.after));
            return found;
          },
          py::arg("rules"), py::arg("stage"), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "fingerprints",
          [](const Plan& plan, const Limits& limits) {
            Watch watch{py::none()};
            return watch.run([&](const Progress& on_progress) {
              return fingerprints(plan, limits, on_progress);
            });
          },
          py::arg("limits"))
      .def(
          "find_nonfinite",
          [](const Plan& plan, std::size_t job, std::size_t input, const Limits& limits) {
            Watch watch{py::none()};
            const NonFinite found = watch.run([&](const Progress& on_progress) {
              return find_nonfinite(plan, job, input, limits, on_progress);
            });
            return std::make_pair(found.count, found.first);
          },
          py::arg("job"), py::arg("input"), py::arg("limits"));
}

}  // namespace tallies::bind
