// Finds cut-offs: entries that equal a threshold are kept lowest index first, up to the rank.

#include <algorithm>

#include "engine/rounds.h"

namespace tallies {
namespace {

// Returns the elements of a job up to and with the n-th one of these bits from `range` on.
std::uint64_t count_to(const RankedUnits& ranked, const Tiling::Range& range, std::size_t search,
                       std::int32_t bits, std::uint64_t n, const Limits& limits) {
  const std::vector<Job> one = {
      ranked.part_of(range.job, range.first, range.n, search, search + 1)};
  Patterns patterns(range.n);
  std::vector<std::uint32_t*> out(ranked.units()[ranked.unit_of(range.job)].ranks.size());
  Limits here = limits;
  here.n_threads = 1;
  for_each_tile<NumberScratch>(
      ranked.plan().files, one, Tiling(one, here), here, [](std::uint64_t) { return true; },
      [&](const Tile& tile, NumberScratch& scratch) {
        out[search] = patterns.data() + (tile.first - range.first);
        ranked.list(range.job, tile, out, scratch);
      });
  std::size_t i = 0;
  for (; n > 0 && i < patterns.size(); ++i) n -= patterns[i] == static_cast<std::uint32_t>(bits);
  return range.first + i;
}

}  // namespace

TilesOfUnit::TilesOfUnit(const RankedUnits& ranked, const Tiling& tiling, std::size_t unit) {
  for (std::size_t number = 0; number < tiling.n_tiles(); ++number) {
    const Tiling::Range range = tiling.range(number);
    if (ranked.unit_of(range.job) != unit) continue;
    ranges.push_back(range);
    numbers.push_back(number);
  }
}

void cut_off_among(const Unit& unit, const Patterns& patterns, Search& search) {
  if (!search.is_cut()) return;
  Threshold& found = search.found;
  std::uint64_t at = 0, left = search.n_of_equal();
  while (left > 0) left -= patterns[at++] == static_cast<std::uint32_t>(found.bits);
  for (found.last_job = 0; at > unit.slices[found.last_job].n_elements;)
    at -= unit.slices[found.last_job++].n_elements;
  found.last_count = unit.slices[found.last_job].first + at;
}

void cut_off_in(const RankedUnits& ranked, const std::vector<Tiling::Range>& ranges,
                std::size_t search, Search& found,
                const std::function<std::uint64_t(std::size_t i)>& n_equal, const Limits& limits) {
  std::uint64_t left = found.n_of_equal();
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const Tiling::Range& range = ranges[i];
    const std::uint64_t here = n_equal(i);
    if (here < left) {
      left -= here;
      continue;
    }
    found.found.last_job = ranked.position_of(range.job);
    found.found.last_count = count_to(ranked, range, search, found.found.bits, left, limits);
    return;
  }
}

bool cut_off(const RankedUnits& ranked, Selection& selection, const Limits& limits,
             const Progress& progress) {
  const auto is_open = [](const Search& search) {
    return search.is_cut() && search.found.last_count == 0;
  };
  const Rounds rounds(ranked, selection, limits, progress);
  const Tiling tiling(ranked.jobs(), ranked.jobs_if([&](std::size_t unit) {
    return std::ranges::any_of(selection.groups[unit].searches, is_open);
  }),
                      limits);
  const std::size_t n = ranked.n_searches();
  std::vector<std::uint32_t> n_equal(tiling.n_tiles() * n);
  const auto bracket = [&](const Search& search) -> std::optional<Bracket> {
    if (!is_open(search)) return {};
    return Bracket{search.found.bits, search.found.bits};
  };
  if (!rounds.count_in(
          tiling, bracket, [&](std::size_t s, const Tile& tile, const TileCount& count) {
            n_equal[tile.number * n + s] =
                static_cast<std::uint32_t>(count.tally.from_low - count.tally.above_low);
          }))
    return false;
  for (std::size_t u = 0; u < selection.groups.size(); ++u)
    for (std::size_t s = 0; s < selection.groups[u].searches.size(); ++s)
      if (Search& search = selection.groups[u].searches[s]; is_open(search)) {
        const TilesOfUnit tiles(ranked, tiling, u);
        cut_off_in(
            ranked, tiles.ranges, s, search,
            [&](std::size_t i) { return n_equal[tiles.numbers[i] * n + s]; }, limits);
      }
  return true;
}

}  // namespace tallies
