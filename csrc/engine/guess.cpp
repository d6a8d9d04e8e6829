// Guesses thresholds from a sample.

#include <algorithm>

#include "core/error.h"
#include "engine/floors.h"
#include "engine/guesses.h"
#include "engine/refined_sample.h"
#include "engine/selecting.h"

namespace tallies {
namespace {

Threshold guess_of(const Search& search) { return search.done ? search.found : search.guess; }

}  // namespace

bool Guesses::is_valid() const {
  std::size_t n = 0;
  for (const Selection::Group& group : selection.groups) n += group.searches.size();
  const auto is_pattern = [](const Threshold& one) { return 0 <= one.bits && one.bits <= kTop; };
  return selection.is_valid() && guessed.size() == n && counts.size() == n &&
         n_counted.size() == selection.groups.size() && std::ranges::all_of(guessed, is_pattern) &&
         std::ranges::all_of(counts, &Counted::is_valid);
}

void Guesses::start(std::vector<Unit> of) {
  units = std::move(of);
  first.clear();
  listed.clear();
  for (const Selection::Group& group : selection.groups) {
    first.push_back(listed.size());
    for (const Search& search : group.searches) {
      Bracket range{std::max(search.tried.low, search.likely.low),
                    std::min(search.tried.high, search.likely.high)};
      // Lists have the elements that equal the lower end.
      if (range.low < range.high) range.low = std::max(range.low - 1, 0);
      listed.push_back(search.done ? Bracket{0, 0} : range);
    }
  }
}

Guesses guess(const Plan& plan, std::vector<Unit> units, bool locate, std::size_t list_bytes,
              const Limits& limits, const Progress& progress) {
  Guesses guesses;
  guesses.locate = locate;
  guesses.list_bytes = list_bytes > 0 ? list_bytes : limits.list_bytes;
  if (guesses.list_bytes == 0)
    guesses.list_bytes = limits.buffer_bytes * static_cast<std::size_t>(limits.n_threads);
  guesses.selection = start_selection(units);
  guesses.n_counted.resize(units.size());
  const Ranking ranking;
  const RankedUnits ranked(plan, units, ranking);
  const Progress counting = [&](std::uint64_t n_bytes) {
    guesses.n_sampled += n_bytes;
    return progress(n_bytes);
  };
  if (!Selecting(ranked, guesses.selection, locate, limits, counting).sample() ||
      !refine(ranked, guesses.selection, locate, limits, counting))
    return guesses;
  guesses.counts = Rounds(ranked, guesses.selection, limits, progress).start();
  for (const Selection::Group& group : guesses.selection.groups)
    for (const Search& search : group.searches) guesses.guessed.push_back(guess_of(search));
  guesses.start(std::move(units));
  return guesses;
}

std::size_t position_in(const Unit& unit, const CombineTask& task) {
  Slice slice = task.slice;
  slice.job = task.ranked_job.value_or(slice.job);
  for (std::size_t i = 0; i < unit.slices.size(); ++i) {
    const Slice& all = unit.slices[i];
    if (all.job == slice.job && all.first <= slice.first &&
        slice.first + slice.n_elements <= all.first + all.n_elements)
      return i;
  }
  throw Error(Error::Kind::request, "job " + std::to_string(slice.job) +
                                        ": this slice is in none of its unit; name the unit "
                                        "that was guessed with it");
}

void set_floors(std::vector<Candidate>& candidates, const Unit& unit, std::size_t position,
                std::span<const Threshold> thresholds) {
  for (Candidate& candidate : candidates) {
    const std::vector<Floor> floors = floors_of(candidate);
    for (std::size_t i = 0; i < candidate.searches.size(); ++i) {
      if (candidate.searches[i] < 0) continue;
      const auto search = static_cast<std::size_t>(candidate.searches[i]);
      if (unit.ranks[search] == 0) continue;
      const Threshold& found = thresholds[search];
      *floors[i].floor = found.bits - 1;
      *floors[i].cutoff = position < found.last_job    ? kWhole
                          : position == found.last_job ? found.last_count
                                                       : 0;
    }
  }
}

}  // namespace tallies
