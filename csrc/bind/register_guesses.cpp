#include "bind/plan.h"
#include "engine/floors.h"
#include "engine/guesses.h"

namespace tallies::bind {
namespace {

// Items of all searches as rows of each unit.
template <class Item>
auto rows_of(const Guesses& guesses, const Item& item) {
  std::vector<std::vector<decltype(item(guesses.guessed[0], Search()))>> rows;
  std::size_t i = 0;
  for (const Selection::Group& group : guesses.selection.groups) {
    auto& row = rows.emplace_back();
    for (const Search& search : group.searches) row.push_back(item(guesses.guessed[i++], search));
  }
  return rows;
}

void check_search(const Guesses& guesses, const CombineTask& task, int search, std::size_t expert,
                  std::size_t n_experts) {
  const std::size_t n = guesses.units[static_cast<std::size_t>(task.unit)].ranks.size();
  check_between("searches", search, -1, static_cast<std::int64_t>(n) - 1);
  if (search >= 0 && static_cast<std::size_t>(search) % n_experts != expert)
    refuse("searches", std::to_string(search),
           "for expert " + std::to_string(expert) + " a search of this expert's magnitudes");
}

Guesses read_guesses(const py::bytes& data, std::vector<Unit> units) {
  auto guesses = from_bytes<Guesses>(std::string_view(data));
  check_length("units", units.size(), guesses.selection.groups.size(), "one for each of the bytes");
  for (std::size_t u = 0; u < units.size(); ++u)
    check_length("ranks", units[u].ranks.size(), guesses.selection.groups[u].searches.size(),
                 "one for each of the bytes");
  guesses.start(std::move(units));
  return guesses;
}

void register_results(py::module_& m) {
  py::class_<Guesses>(m, "Guesses")
      .def_property_readonly(
          "thresholds",
          [](const Guesses& guesses) {
            return rows_of(guesses, [](const Threshold& guess, const Search&) { return guess; });
          })
      .def_property_readonly("is_sure",
                             [](const Guesses& guesses) {
                               return rows_of(guesses, [](const Threshold&, const Search& search) {
                                 return search.done;
                               });
                             })
      .def_readonly("n_sampled", &Guesses::n_sampled)
      .def_readonly("n_listed", &Guesses::n_listed)
      .def_readonly("n_repaired", &Guesses::n_repaired)
      .def_readonly("n_rounds", &Guesses::n_rounds)
      .def("to_bytes", [](const Guesses& one) { return py::bytes(to_bytes(one)); })
      .def_static("from_bytes", &read_guesses, py::arg("data"), py::kw_only(), py::arg("units"));
  py::class_<Settled>(m, "Settled")
      .def_readonly("thresholds", &Settled::thresholds)
      .def_readonly("is_right", &Settled::is_right)
      .def_readonly("results", &Settled::results)
      .def_property_readonly("again", [](const Settled& settled) {
        std::vector<std::tuple<std::size_t, std::size_t, std::uint64_t, std::uint64_t>> ranges;
        for (const Settled::Again& one : settled.again)
          ranges.emplace_back(one.task, one.candidate, one.first, one.n_elements);
        return ranges;
      });
}

}  // namespace

void check(const Plan& plan, const std::vector<CombineTask>& tasks, Guesses* guesses) {
  if (guesses != nullptr) check(plan, guesses->units, Ranking());
  for (const CombineTask& task : tasks) {
    if (guesses == nullptr) {
      check_between("unit", task.unit, -1, -1);
      continue;
    }
    if (guesses->is_settled) refuse("guesses", "some that are settled", "others for each merge");
    check_between("unit", task.unit, -1, static_cast<std::int64_t>(guesses->units.size()) - 1);
    const std::size_t n_experts = plan.n_experts(task.slice.job);
    for (const Candidate& candidate : task.candidates) {
      if (task.unit < 0 || candidate.searches.empty()) continue;
      Candidate searched = candidate;
      check_length("searches", candidate.searches.size(), floors_of(searched).size(),
                   "one for each expert, or two where it has a band");
      for (std::size_t i = 0; i < candidate.searches.size(); ++i)
        check_search(*guesses, task, candidate.searches[i], i % n_experts, n_experts);
    }
    if (task.unit >= 0) position_in(guesses->units[static_cast<std::size_t>(task.unit)], task);
  }
}

void register_guesses(py::module_& m) {
  register_results(m);
  plan_class(m)
      .def(
          "guess",
          [](const Plan& plan, std::vector<Unit> units, bool locate, const Limits& limits,
             std::size_t list_bytes, const std::optional<py::bytes>& data, py::object progress) {
            check(plan, units, Ranking());
            if (data) return read_guesses(*data, std::move(units));
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return guess(plan, std::move(units), locate, list_bytes, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("units"), py::arg("locate"), py::arg("limits"),
          py::arg("list_bytes") = 0, py::arg("data") = py::none(), py::arg("progress") = py::none())
      .def(
          "settle",
          [](const Plan& plan, Guesses& guesses, const Limits& limits, py::object progress) {
            check(plan, guesses.units, Ranking());
            return run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return settle(plan, guesses, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("guesses"), py::arg("limits"), py::arg("progress") = py::none());
}

}  // namespace tallies::bind
