// A selection in rounds over parts of a model, each of which may be on another machine.

#include <algorithm>

#include "core/error.h"
#include "engine/parts.h"
#include "engine/rounds.h"

namespace tallies {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(Error::Kind::request, what); }

}  // namespace

Selection start_selection(const std::vector<Unit>& units) {
  Selection selection;
  for (const Unit& unit : units) {
    Selection::Group& group = selection.groups.emplace_back();
    for (const Slice& slice : unit.slices) group.n_elements += slice.n_elements;
    for (const std::uint64_t rank : unit.ranks) {
      group.searches.push_back(start_search(rank, unit.share));
      group.searches.back().found.last_job = unit.slices.size();
    }
  }
  return selection;
}

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

std::vector<std::vector<Threshold>> Selection::thresholds() const {
  std::vector<std::vector<Threshold>> found;
  for (const Group& group : groups) {
    auto& row = found.emplace_back();
    for (const Search& search : group.searches) row.push_back(search.found);
  }
  return found;
}

Round& Round::operator+=(const Round& part) {
  if (samples.size() != part.samples.size())
    refuse("rounds to add have " + std::to_string(samples.size()) + " and " +
           std::to_string(part.samples.size()) + " searches, expected parts of one round");
  for (std::size_t i = 0; i < samples.size(); ++i)
    samples[i].insert(samples[i].end(), part.samples[i].begin(), part.samples[i].end());
  add(counts, part.counts);
  return *this;
}

bool Round::is_valid() const {
  const auto is_pattern = [](std::uint32_t bits) { return bits <= std::uint32_t(kTop); };
  return std::ranges::all_of(counts, &Counted::is_valid) &&
         std::ranges::all_of(samples, [&](const Patterns& patterns) {
           return std::ranges::all_of(patterns, is_pattern);
         });
}

Round survey_round(const Plan& plan, const std::vector<Unit>& units, const Ranking& ranking,
                   const Selection& selection, const Limits& limits, const Progress& progress) {
  const RankedUnits ranked(plan, units, ranking);
  const Rounds rounds(ranked, selection, limits, progress);
  Round round;
  if (selection.is_sampled)
    rounds.count(Tiling(ranked.jobs(), limits), round.counts,
                 [](std::size_t, const Tile&, const AtBracket&) {});
  else
    rounds.sample(0, ranked.n_searches(), round.samples);
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
      if (!selection.is_sampled)
        search.learn_from_sample(round.samples[at], group.n_elements);
      else if (round.counts[at].tried == search.tried)
        search.learn(round.counts[at]);
      else
        refuse("the round has tried other brackets than the selection asks for");
    }
  selection.is_sampled = true;
}

}  // namespace tallies
