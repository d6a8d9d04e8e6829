#include "engine/select.h"

#include <algorithm>

#include "engine/rounds.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Searches whose samples are in memory at a time, so that 64 experts take no more than 4.
constexpr std::size_t kSampledTogether = 4;
// Stretches whose equal patterns are counted while they are searched for, times searches: 16 MiB.
constexpr std::size_t kMaxTried = std::size_t(1) << 20;

std::vector<std::uint64_t> elements_of(const std::vector<Unit>& units) {
  std::vector<std::uint64_t> found;
  for (const Unit& unit : units) {
    std::uint64_t n = 0;
    for (const Slice& slice : unit.slices) n += slice.n_elements;
    found.push_back(n);
  }
  return found;
}

Searches pointers(std::vector<std::vector<Search>>& searches) {
  Searches found;
  for (auto& of_unit : searches) {
    auto& row = found.emplace_back();
    for (Search& search : of_unit) row.push_back(&search);
  }
  return found;
}

// One search's position and what it still looks for.
struct Open {
  std::size_t unit, search;
};

std::vector<Open> open_of(const Searches& searches) {
  std::vector<Open> open;
  for (std::size_t u = 0; u < searches.size(); ++u)
    for (std::size_t s = 0; s < searches[u].size(); ++s)
      if (!searches[u][s]->done) open.push_back({u, s});
  return open;
}

// A selection over all of the units at once.
class Selecting {
 public:
  Selecting(const Plan& plan, const std::vector<Unit>& units, const Ranking& ranking, bool locate,
            const Limits& limits, const Progress& progress)
      : ranked_(plan, units, ranking),
        n_elements_(elements_of(units)),
        locate_(locate),
        limits_(limits),
        progress_(progress),
        rounds_(ranked_, limits, progress) {
    std::size_t n_large = 0;
    for (std::size_t u = 0; u < units.size(); ++u) {
      auto& of_unit = all_.emplace_back();
      for (const std::uint64_t rank : units[u].ranks) {
        of_unit.push_back(start_search(rank, units[u].share));
        of_unit.back().found.last_job = units[u].slices.size();
        n_large += !of_unit.back().done && n_elements_[u] > kSmallUnit;
      }
    }
    searches_ = pointers(all_);
    room_ = room_for(n_large, limits);
  }

  std::vector<std::vector<Threshold>> run() {
    for (std::size_t first = 0; first < ranked_.n_searches(); first += kSampledTogether)
      if (!sample(first, std::min(first + kSampledTogether, ranked_.n_searches()))) return {};
    for (std::vector<Open> open = open_of(searches_); !open.empty(); open = open_of(searches_))
      if (!count(open)) return {};
    if (locate_ && !cut_off(ranked_, searches_, limits_, progress_)) return {};
    std::vector<std::vector<Threshold>> found;
    for (const auto& of_unit : all_) {
      auto& row = found.emplace_back();
      for (const Search& search : of_unit) row.push_back(search.found);
    }
    return found;
  }

 private:
  bool sample(std::size_t from, std::size_t to) {
    std::vector<std::vector<Patterns>> samples;
    if (!rounds_.sample(searches_, n_elements_, from, to, samples)) return false;
    parallel_for(all_.size() * (to - from), limits_.n_threads, [&](std::size_t i) {
      const std::size_t u = i / (to - from), s = from + i % (to - from);
      if (s >= all_[u].size() || all_[u][s].done) return;
      if (n_elements_[u] > kSmallUnit) return all_[u][s].guess_from(samples[u][s], n_elements_[u]);
      all_[u][s].learn_from_all(samples[u][s]);
      if (locate_) cut_off_among(ranked_.units()[u], samples[u][s], all_[u][s]);
    });
    return true;
  }

  bool count(const std::vector<Open>& open) {
    std::vector<Counted> empty;
    std::vector<std::vector<std::size_t>> part_of(all_.size());
    for (const auto& [u, s] : open) {
      part_of[u].resize(all_[u].size());
      part_of[u][s] = empty.size();
      empty.push_back(all_[u][s].start(room_));
    }
    const Tiling tiling(ranked_.jobs(), ranked_.jobs_if([&](std::size_t unit) {
                          return !part_of[unit].empty();
                        }),
                        limits_);
    const std::size_t n = ranked_.n_searches(), n_tried = tiling.n_tiles() * n;
    std::vector<Tried> tried(locate_ && n_tried <= kMaxTried ? n_tried : 0);
    Parts<Counted> parts(std::move(empty));
    const bool finished = rounds_.count(
        searches_, tiling,
        [](const Search& search) -> std::optional<Bracket> {
          if (search.done) return {};
          return search.tried;
        },
        [&](std::size_t s, const Tile& tile, const TileCount& found) {
          const Tried one = parts.change(part_of[ranked_.unit_of(tile.job)][s],
                                         [&](Counted& part) { return part.add(found); });
          if (!tried.empty()) tried[tile.number * n + s] = one;
        });
    if (!finished) return false;
    const std::vector<Counted> counted = parts.take();
    parallel_for(open.size(), limits_.n_threads, [&](std::size_t i) {
      all_[open[i].unit][open[i].search].learn(counted[i]);
    });
    for (std::size_t i = 0; i < open.size() && !tried.empty(); ++i) {
      const auto& [u, s] = open[i];
      Search& search = all_[u][s];
      if (search.done && search.is_cut() && counted[i].knows_equal(search.found.bits))
        cut_off_in(
            ranked_, tiling, u, s, search,
            [&, s = s](std::size_t tile) {
              return counted[i].n_equal(search.found.bits, tried[tile * n + s]);
            },
            limits_);
    }
    return true;
  }

  const RankedUnits ranked_;
  const std::vector<std::uint64_t> n_elements_;  // per unit
  const bool locate_;
  const Limits& limits_;
  const Progress& progress_;
  const Rounds rounds_;
  std::vector<std::vector<Search>> all_;
  Searches searches_;
  std::size_t room_ = 0;
};

}  // namespace

std::size_t room_for(std::size_t n_searches, const Limits& limits) {
  const std::size_t n_bytes = limits.buffer_bytes * static_cast<std::size_t>(limits.n_threads);
  return std::max(n_bytes / sizeof(std::uint32_t) / std::max<std::size_t>(n_searches, 1),
                  kLeastRoom);
}

std::vector<std::vector<Threshold>> select(const Plan& plan, const std::vector<Unit>& units,
                                           const Ranking& ranking, bool locate,
                                           const Limits& limits, const Progress& progress) {
  return Selecting(plan, units, ranking, locate, limits, progress).run();
}

}  // namespace tallies
