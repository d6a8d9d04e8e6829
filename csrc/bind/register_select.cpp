#include "bind/plan.h"

namespace tallies::bind {
namespace {

Unit to_unit(const std::vector<JobOrSlice>& jobs, std::vector<std::uint64_t> ranks, float share) {
  Unit unit{{}, std::move(ranks), share};
  for (const JobOrSlice& job : jobs) unit.slices.push_back(to_slice(job));
  return unit;
}

// Whose arguments these are: what units rank.
Ranking to_ranking(int measure, const ScoreNumbers& scores, int agreement,
                   const std::vector<std::vector<Stage>>& draws) {
  Ranking ranking{
      to_enum<Measure>("measure", measure, kMeasures), to_scores(scores, agreement), {}};
  for (const std::vector<Stage>& row : draws) ranking.draws.push_back({row, 0});
  return ranking;
}

Selection to_selection(const std::vector<std::uint64_t>& n_elements,
                       const std::vector<std::vector<std::uint64_t>>& ranks,
                       std::vector<float> shares) {
  if (shares.empty()) shares.resize(ranks.size());
  check_length("n_elements", n_elements.size(), ranks.size(), "one for each unit");
  check_length("shares", shares.size(), ranks.size(), "one for each unit");
  Selection selection;
  for (std::size_t u = 0; u < ranks.size(); ++u) {
    selection.groups.push_back({n_elements[u], {}});
    for (const std::uint64_t rank : ranks[u]) {
      if (rank > n_elements[u])
        refuse("ranks", std::to_string(rank), "0 to " + std::to_string(n_elements[u]));
      selection.groups.back().searches.push_back(start_search(rank, shares[u]));
    }
  }
  return selection;
}

void check_groups(const Selection& selection, const std::vector<Unit>& units) {
  check_length("units", units.size(), selection.groups.size(), "one for each of the selection");
  for (std::size_t u = 0; u < units.size(); ++u)
    check_length("ranks", units[u].ranks.size(), selection.groups[u].searches.size(),
                 "one for each of the selection");
}

}  // namespace

void register_select(py::module_& m) {
  py::class_<Unit>(m, "Unit")
      .def(py::init(&to_unit), py::kw_only(), py::arg("jobs"), py::arg("ranks"),
           py::arg("share") = 0.0f)
      .def_property_readonly(
          "slices",
          [](const Unit& unit) {
            std::vector<std::tuple<std::size_t, std::uint64_t, std::uint64_t>> found;
            for (const Slice& slice : unit.slices)
              found.emplace_back(slice.job, slice.first, slice.n_elements);
            return found;
          })
      .def_readonly("ranks", &Unit::ranks)
      .def_readonly("share", &Unit::share)
      .def(
          "with_ranks",
          [](Unit unit, std::vector<std::uint64_t> ranks) {
            unit.ranks = std::move(ranks);
            return unit;
          },
          py::kw_only(), py::arg("ranks"));

  py::class_<Threshold>(m, "Threshold")
      .def_readonly("bits", &Threshold::bits)
      .def_readonly("n_above", &Threshold::n_above)
      .def_readonly("n_equal", &Threshold::n_equal)
      .def_readonly("largest", &Threshold::largest)
      .def_readonly("rank", &Threshold::rank)
      .def_readonly("last_job", &Threshold::last_job)
      .def_readonly("last_count", &Threshold::last_count);

  py::class_<Round> round(m, "Round");
  bind_part(round);
  py::class_<Selection>(m, "Selection")
      .def(py::init(&to_selection), py::kw_only(), py::arg("n_elements"), py::arg("ranks"),
           py::arg("shares") = std::vector<float>())
      .def("to_bytes", [](const Selection& one) { return py::bytes(to_bytes(one)); })
      .def_static(
          "from_bytes",
          [](const py::bytes& data) { return from_bytes<Selection>(std::string_view(data)); },
          py::arg("data"))
      .def_property_readonly("is_done", &Selection::is_done)
      .def(
          "learn", [](Selection& selection, const Round& found) { learn(selection, found); },
          py::kw_only(), py::arg("round"))
      .def("thresholds", &Selection::thresholds);

  plan_class(m)
      .def(
          "select",
          [](const Plan& plan, std::vector<Unit> units, bool locate, const Limits& limits,
             py::object progress, int measure, const ScoreNumbers& scores, int agreement,
             const std::vector<std::vector<Stage>>& draws) {
            const Ranking ranking = to_ranking(measure, scores, agreement, draws);
            check(plan, units, ranking);
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return select(plan, units, ranking, locate, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("units"), py::arg("locate"), py::arg("limits"),
          py::arg("progress") = py::none(), py::arg("measure") = 0,
          py::arg("scores") = ScoreNumbers(), py::arg("agreement") = 0,
          py::arg("draws") = std::vector<std::vector<Stage>>())
      .def(
          "survey_round",
          [](const Plan& plan, std::vector<Unit> units, const Selection& selection,
             const Limits& limits, py::object progress, int measure, const ScoreNumbers& scores,
             int agreement, const std::vector<std::vector<Stage>>& draws) {
            const Ranking ranking = to_ranking(measure, scores, agreement, draws);
            check_groups(selection, units);
            for (Unit& unit : units) std::ranges::fill(unit.ranks, 0);
            check(plan, units, ranking);
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return survey_round(plan, units, ranking, selection, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("units"), py::arg("selection"), py::arg("limits"),
          py::arg("progress") = py::none(), py::arg("measure") = 0,
          py::arg("scores") = ScoreNumbers(), py::arg("agreement") = 0,
          py::arg("draws") = std::vector<std::vector<Stage>>());
}

}  // namespace tallies::bind
