// Finds cut-offs: entries that equal a threshold are kept lowest index first, up to the rank.

#include <algorithm>
#include <atomic>
#include <optional>
#include <ranges>

#include "engine/rounds.h"

namespace tallies {
namespace {

// Counts of the equal entries of all searches take up to 16 MiB: tiles share one beyond that.
constexpr std::size_t kMostCounts = std::size_t(1) << 21;

// Looks for the left-th entry that equals the threshold of a search, and returns the elements of
// the job up to and with it; none if the range has fewer, which are taken off `left`.
std::optional<std::uint64_t> find_equal(const RankedUnits& ranked, const Tiling::Range& range,
                                        std::size_t search, std::int32_t bits, std::uint64_t& left,
                                        const Limits& limits) {
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
  for (std::size_t i = 0; i < patterns.size(); ++i)
    if (patterns[i] == static_cast<std::uint32_t>(bits) && --left == 0) return range.first + i + 1;
  return {};
}

// Counts of the tiles of each unit, of several tiles each where all would take too much memory.
class SharedCounts {
 public:
  SharedCounts(const RankedUnits& ranked, const Tiling& tiling, std::size_t n_units)
      : n_searches_(ranked.n_searches()),
        n_together_(tiling.n_tiles() / std::max<std::size_t>(kMostCounts / n_searches_, 1) + 1) {
    std::size_t n = 0;
    for (std::size_t u = 0; u < n_units; ++u) {
      tiles_.emplace_back(ranked, tiling, u);
      first_.push_back(n);
      n += (tiles_[u].size() + n_together_ - 1) / n_together_;
    }
    counts_ = std::vector<std::atomic<std::uint64_t>>(n * n_searches_);
  }

  std::atomic<std::uint64_t>& of(std::size_t unit, std::size_t tile, std::size_t search) {
    return counts_[(first_[unit] + (tile - tiles_[unit].begin) / n_together_) * n_searches_ +
                   search];
  }

  // Returns the tile from which on the left-th entry lies, at most n_together() tiles away.
  std::size_t find(std::size_t unit, std::size_t search, std::uint64_t& left) {
    std::size_t tile = tiles_[unit].begin;
    for (; tile + n_together_ < tiles_[unit].end; tile += n_together_) {
      const std::uint64_t here = of(unit, tile, search);
      if (here >= left) break;
      left -= here;
    }
    return tile;
  }
  std::size_t end_of(std::size_t unit) const { return tiles_[unit].end; }

 private:
  const std::size_t n_searches_, n_together_;
  std::vector<TilesOfUnit> tiles_;
  std::vector<std::size_t> first_;  // of each unit, among all counts of a search
  std::vector<std::atomic<std::uint64_t>> counts_;
};

}  // namespace

TilesOfUnit::TilesOfUnit(const RankedUnits& ranked, const Tiling& tiling, std::size_t unit) {
  const auto numbers = std::views::iota(std::size_t(0), tiling.n_tiles());
  const auto unit_of = [&](std::size_t number) { return ranked.unit_of(tiling.range(number).job); };
  const auto found = std::ranges::equal_range(numbers, unit, {}, unit_of);
  begin = static_cast<std::size_t>(found.begin() - numbers.begin());
  end = static_cast<std::size_t>(found.end() - numbers.begin());
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

void cut_off_in(const RankedUnits& ranked, const EqualInRanges& ranges, std::size_t search,
                Search& found, const Limits& limits) {
  std::uint64_t left = found.n_of_equal();
  for (std::size_t i = 0; i < ranges.n; ++i) {
    const std::uint64_t here = ranges.n_equal(i);
    if (here < left) {
      left -= here;
      continue;
    }
    const Tiling::Range range = ranges.range(i);
    const auto end = find_equal(ranked, range, search, found.found.bits, left, limits);
    found.found.last_job = ranked.position_of(range.job);
    found.found.last_count = end.value_or(range.first + range.n);
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
  const std::size_t n_units = selection.groups.size();
  if (tiling.n_tiles() == 0) return true;
  SharedCounts counts(ranked, tiling, n_units);
  const auto bracket = [&](const Search& search) -> std::optional<Bracket> {
    if (!is_open(search)) return {};
    return Bracket{search.found.bits, search.found.bits};
  };
  if (!rounds.count_in(tiling, bracket,
                       [&](std::size_t s, const Tile& tile, const TileCount& count) {
                         counts.of(ranked.unit_of(tile.job), tile.number, s) +=
                             count.tally.from_low - count.tally.above_low;
                       }))
    return false;
  for (std::size_t u = 0; u < n_units; ++u)
    for (std::size_t s = 0; s < selection.groups[u].searches.size(); ++s) {
      Search& search = selection.groups[u].searches[s];
      if (!is_open(search)) continue;
      std::uint64_t left = search.n_of_equal();
      for (std::size_t tile = counts.find(u, s, left); tile < counts.end_of(u); ++tile) {
        const Tiling::Range range = tiling.range(tile);
        const auto end = find_equal(ranked, range, s, search.found.bits, left, limits);
        if (!end) continue;
        search.found.last_job = ranked.position_of(range.job);
        search.found.last_count = *end;
        break;
      }
    }
  return true;
}

}  // namespace tallies
