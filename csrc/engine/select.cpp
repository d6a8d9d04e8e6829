#include "engine/select.h"

#include <algorithm>

#include "engine/selecting.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Searches whose samples are in memory at a time, so that 64 experts take no more than 4.
constexpr std::size_t kSampledTogether = 4;
// Tiles whose equal patterns are counted while they are searched for, times searches: 16 MiB.
constexpr std::size_t kMaxTried = std::size_t(1) << 20;

}  // namespace

Selecting::Selecting(const RankedUnits& ranked, Selection& selection, bool locate,
                     const Limits& limits, const Progress& progress)
    : ranked_(ranked),
      selection_(selection),
      locate_(locate),
      limits_(limits),
      progress_(progress),
      rounds_(ranked, selection, limits, progress) {}

bool Selecting::sample() {
  for (std::size_t first = 0; first < ranked_.n_searches(); first += kSampledTogether)
    if (!sample(first, std::min(first + kSampledTogether, ranked_.n_searches()))) return false;
  return true;
}

bool Selecting::finish() {
  for (; !selection_.is_done(); ++n_rounds_)
    if (!count()) return false;
  return !locate_ || cut_off(ranked_, selection_, limits_, progress_);
}

// Calls body(unit, search, index) for the searches that are open, from all threads.
template <class Body>
void Selecting::for_each_open(const Body& body) {
  std::vector<std::pair<std::size_t, std::size_t>> open;
  std::size_t n_elements = 0;
  for (std::size_t u = 0; u < selection_.groups.size(); ++u)
    for (std::size_t s = 0; s < selection_.groups[u].searches.size(); ++s)
      if (!selection_.groups[u].searches[s].done) {
        open.emplace_back(u, s);
        n_elements += selection_.groups[u].n_elements;
      }
  const int n_threads = limits_.threads_for(n_elements * sizeof(float));
  parallel_for(open.size(), n_threads, [&](std::size_t i) {
    const auto [u, s] = open[i];
    body(u, s, rounds_.index_of(u, s));
  });
}

bool Selecting::sample(std::size_t from, std::size_t to) {
  std::vector<Patterns> samples;
  if (!rounds_.sample(from, to, samples)) return false;
  for_each_open([&](std::size_t u, std::size_t s, std::size_t index) {
    if (s < from || s >= to) return;
    Search& search = selection_.groups[u].searches[s];
    search.learn_from_sample(samples[index], selection_.groups[u].n_elements);
    if (locate_ && search.done) cut_off_among(ranked_.units()[u], samples[index], search);
  });
  return true;
}

bool Selecting::count() {
  const Tiling tiling(ranked_.jobs(), ranked_.jobs_if([&](std::size_t unit) {
    return !std::ranges::all_of(selection_.groups[unit].searches, &Search::done);
  }),
                      limits_);
  const std::size_t n = ranked_.n_searches(), n_tried = tiling.n_tiles() * n;
  std::vector<AtBracket> tried(locate_ && n_tried <= kMaxTried ? n_tried : 0);
  std::vector<Counted> counts;
  if (!rounds_.count(tiling, counts, [&](std::size_t s, const Tile& tile, const AtBracket& one) {
        if (!tried.empty()) tried[tile.number * n + s] = one;
      }))
    return false;
  for_each_open([&](std::size_t u, std::size_t s, std::size_t index) {
    Search& search = selection_.groups[u].searches[s];
    const Counted& counted = counts[index];
    search.learn(counted);
    if (tried.empty() || !search.done || !search.is_cut()) return;
    const std::int32_t bits = search.found.bits;
    if (!counted.knows_equal(bits)) return;
    const TilesOfUnit tiles(ranked_, tiling, u);
    cut_off_in(
        ranked_,
        {tiles.size(), [&](std::size_t i) { return tiling.range(tiles.begin + i); },
         [&](std::size_t i) { return counted.n_equal(bits, tried[(tiles.begin + i) * n + s]); }},
        s, search, limits_);
  });
  return true;
}

std::vector<std::vector<Threshold>> select(const Plan& plan, const std::vector<Unit>& units,
                                           const Ranking& ranking, bool locate,
                                           const Limits& limits, const Progress& progress) {
  const RankedUnits ranked(plan, units, ranking);
  Selection selection = start_selection(units);
  Selecting selecting(ranked, selection, locate, limits, progress);
  if (!selecting.sample() || !selecting.finish()) return {};
  return selection.thresholds();
}

}  // namespace tallies
