// A selection in rounds over parts of a model, each of which may be on another machine.

#include <algorithm>

#include "core/error.h"
#include "engine/parts.h"
#include "engine/rounds.h"

namespace tallies {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(Error::Kind::request, what); }

Searches pointers(const Selection& selection) {
  Searches found;
  for (const Selection::Group& group : selection.groups) {
    auto& row = found.emplace_back();
    // Rounds only read them.
    for (const Search& search : group.searches) row.push_back(const_cast<Search*>(&search));
  }
  return found;
}

}  // namespace

bool Selection::is_done() const {
  return std::ranges::all_of(groups, [](const Group& group) {
    return std::ranges::all_of(group.searches, &Search::done);
  });
}

bool Selection::is_valid() const {
  return std::ranges::all_of(groups, [](const Group& group) {
    return std::ranges::all_of(group.searches, &Search::is_valid);
  });
}

Round& Round::operator+=(const Round& part) {
  if (samples.size() != part.samples.size())
    refuse("rounds to add have " + std::to_string(samples.size()) + " and " +
           std::to_string(part.samples.size()) + " searches, expected parts of one round");
  for (std::size_t i = 0; i < samples.size(); ++i)
    samples[i].insert(samples[i].end(), part.samples[i].begin(), part.samples[i].end());
  add_each(counts, part.counts, "searches");
  return *this;
}

bool Round::is_valid() const {
  return std::ranges::all_of(counts, &Counted::is_valid) &&
         std::ranges::all_of(samples, [](const Patterns& patterns) {
           return std::ranges::all_of(
               patterns, [](std::uint32_t pattern) { return pattern <= std::uint32_t(kTop); });
         });
}

Round survey_round(const Plan& plan, const std::vector<Unit>& units, const Ranking& ranking,
                   const Selection& selection, const Limits& limits, const Progress& progress) {
  const RankedUnits ranked(plan, units, ranking);
  const Rounds rounds(ranked, limits, progress);
  const Searches searches = pointers(selection);
  Round round;
  if (!selection.is_sampled) {
    std::vector<std::uint64_t> n_elements;
    for (const Selection::Group& group : selection.groups) n_elements.push_back(group.n_elements);
    std::vector<std::vector<Patterns>> samples;
    rounds.sample(searches, n_elements, 0, ranked.n_searches(), samples);
    for (auto& of_unit : samples)
      for (Patterns& patterns : of_unit) round.samples.push_back(std::move(patterns));
    return round;
  }
  std::vector<std::vector<std::size_t>> part_of;
  std::size_t n_open = 0;
  for (const auto& of_unit : searches)
    for (const Search* const search : of_unit) n_open += !search->done;
  std::vector<Counted> empty;
  for (const auto& of_unit : searches) {
    auto& row = part_of.emplace_back();
    for (const Search* const search : of_unit) {
      row.push_back(empty.size());
      empty.push_back(search->start(room_for(n_open, limits)));
    }
  }
  Parts<Counted> parts(std::move(empty));
  rounds.count(
      searches, Tiling(ranked.jobs(), limits),
      [](const Search& search) -> std::optional<Bracket> {
        if (search.done) return {};
        return search.tried;
      },
      [&](std::size_t s, const Tile& tile, const TileCount& found) {
        parts.change(part_of[ranked.unit_of(tile.job)][s],
                     [&](Counted& part) { return part.add(found); });
      });
  round.counts = parts.take();
  return round;
}

void learn(Selection& selection, const Round& round) {
  std::size_t n = 0;
  for (const Selection::Group& group : selection.groups) n += group.searches.size();
  const std::size_t found = selection.is_sampled ? round.counts.size() : round.samples.size();
  if (found != n)
    refuse("the round has " + std::to_string(found) + " searches, expected " + std::to_string(n));
  std::size_t i = 0;
  for (Selection::Group& group : selection.groups)
    for (Search& search : group.searches) {
      const std::size_t at = i++;
      if (search.done) continue;
      if (selection.is_sampled) {
        if (round.counts[at].tried != search.tried)
          refuse("the round has tried other brackets than the selection asks for");
        search.learn(round.counts[at]);
      } else if (group.n_elements > kSmallUnit) {
        search.guess_from(round.samples[at], group.n_elements);
      } else if (round.samples[at].size() == group.n_elements) {
        search.learn_from_all(round.samples[at]);
      } else {
        refuse("the round has " + std::to_string(round.samples[at].size()) +
               " numbers, expected all " + std::to_string(group.n_elements) + " of a small unit");
      }
    }
  selection.is_sampled = true;
}

}  // namespace tallies
