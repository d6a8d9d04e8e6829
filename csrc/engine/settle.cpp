// Finds the exact thresholds, and makes right what was combined with wrong guesses.

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "engine/floors.h"
#include "engine/guesses.h"
#include "engine/repair.h"
#include "engine/selecting.h"
#include "stream/threads.h"

namespace tallies {
namespace {

bool is_same(const Threshold& a, const Threshold& b) {
  return a.bits == b.bits && a.last_job == b.last_job && a.last_count == b.last_count;
}

class Settling {
 public:
  Settling(const Plan& plan, Guesses& guesses, Cancelled* cancelled, const Limits& limits)
      : plan_(plan),
        guesses_(guesses),
        cancelled_(cancelled),
        limits_(limits),
        ranked_(plan, guesses.units, ranking_) {}

  Settled run(const Progress& progress) {
    require_all_counted();
    learn();
    Selecting selecting(ranked_, guesses_.selection, guesses_.locate, limits_, progress);
    if (!selecting.finish()) return {};
    guesses_.n_rounds += selecting.n_rounds();
    guesses_.is_settled = true;
    Settled settled;
    settled.thresholds = guesses_.selection.thresholds();
    for (const auto& row : settled.thresholds) {
      auto& is_right = settled.is_right.emplace_back();
      for (const Threshold& found : row) {
        is_right.push_back(is_same(found, guesses_.guessed[exact_.size()]));
        exact_.push_back(found);
      }
    }
    settled.results.resize(guesses_.tasks.size());
    for (std::size_t i = 0; i < guesses_.tasks.size(); ++i) settle(i, settled);
    return settled;
  }

 private:
  void require_all_counted() const {
    if (guesses_.is_settled)
      throw Error(Error::Kind::request, "these guesses are settled; make others for another merge");
    for (std::size_t u = 0; u < guesses_.units.size(); ++u) {
      const Selection::Group& group = guesses_.selection.groups[u];
      const bool is_open = !std::ranges::all_of(group.searches, &Search::done);
      if (is_open && guesses_.n_counted[u] != group.n_elements)
        throw Error(Error::Kind::request,
                    "unit " + std::to_string(u) + " of the guesses has " +
                        std::to_string(group.n_elements) + " elements, but " +
                        std::to_string(guesses_.n_counted[u]) +
                        " were combined; combine every slice of it once before it is settled");
    }
  }

  // The tiles of a unit that this process has combined and that know how many entries are equal,
  // in the order of its slices.
  struct TileAt {
    Tiling::Range range;  // of the job among all of the units
    const GuessedTile* tile;
  };
  std::vector<TileAt> tiles_of(std::size_t unit) const {
    std::vector<TileAt> tiles;
    std::size_t first_job = 0;
    for (std::size_t u = 0; u < unit; ++u) first_job += guesses_.units[u].slices.size();
    for (const GuessedTask& task : guesses_.tasks) {
      if (task.task.unit != static_cast<int>(unit)) continue;
      for (const GuessedTile& tile : task.tiles)
        if (!tile.tried.empty())
          tiles.push_back({{first_job + task.position, tile.first, tile.n}, &tile});
    }
    std::ranges::sort(tiles, {},
                      [](const TileAt& one) { return std::pair(one.range.job, one.range.first); });
    return tiles;
  }

  void learn() {
    for (std::size_t u = 0; u < guesses_.units.size(); ++u) {
      Selection::Group& group = guesses_.selection.groups[u];
      std::vector<TileAt> tiles;
      if (guesses_.locate) tiles = tiles_of(u);
      std::uint64_t n = 0;
      for (const TileAt& one : tiles) n += one.range.n;
      for (std::size_t s = 0; s < group.searches.size(); ++s) {
        Search& search = group.searches[s];
        Counted& counted = guesses_.counts[guesses_.index_of(u, s)];
        if (!search.done) {
          search.learn(counted);
          const std::int32_t bits = search.found.bits;
          if (n == group.n_elements && search.done && search.is_cut() && counted.knows_equal(bits))
            cut_off_in(
                ranked_,
                {tiles.size(), [&](std::size_t i) { return tiles[i].range; },
                 [&](std::size_t i) { return counted.n_equal(bits, tiles[i].tile->tried[s]); }},
                s, search, limits_);
        }
        counted = {};
      }
    }
  }

  // Returns the task's candidates with exact floors and cutoffs.
  std::vector<Candidate> exact(const GuessedTask& task) const {
    std::vector<Candidate> candidates = task.task.candidates;
    const auto unit = static_cast<std::size_t>(task.task.unit);
    const std::size_t n = guesses_.units[unit].ranks.size();
    set_floors(candidates, guesses_.units[unit], task.position,
               std::span(exact_).subspan(guesses_.first[unit], n));
    return candidates;
  }

  // Returns whether lists have every element that passes otherwise with the exact threshold.
  bool is_listed(std::size_t i) const {
    const Bracket& range = guesses_.listed[i];
    const auto [least, most] = std::minmax(guesses_.guessed[i].bits, exact_[i].bits);
    return range.low < least && (guesses_.locate ? most < range.high : most <= range.high);
  }

  void settle(std::size_t number, Settled& settled) {
    const GuessedTask& task = guesses_.tasks[number];
    const std::size_t n = task.task.candidates.size();
    auto& results = settled.results[number];
    results.resize(n);
    if (task.task.unit < 0) return;
    // The searches of each candidate of which lists lack elements.
    std::vector<std::vector<std::size_t>> unlisted(n);
    std::vector<std::size_t> by_tiles;  // candidates
    for (std::size_t k = 0; k < n; ++k) {
      if (!is_wrong(task, k, unlisted[k])) continue;
      results[k].emplace();
      const Slice& slice = task.task.slice;
      // Tiles are remembered where lists or cut-offs may need them.
      if (unlisted[k].empty() || guesses_.locate)
        by_tiles.push_back(k);
      else if (slice.n_elements > 0)
        settled.again.push_back({number, k, slice.first, slice.n_elements});
    }
    if (!by_tiles.empty()) settle_tiles(number, by_tiles, unlisted, settled);
  }

  // Returns whether a threshold of a candidate was guessed wrong, and notes those of which lists
  // lack elements.
  bool is_wrong(const GuessedTask& task, std::size_t candidate,
                std::vector<std::size_t>& unlisted) const {
    const std::vector<int>& searches = task.task.candidates[candidate].searches;
    bool found = false;
    for (std::size_t f = 0; f < searches.size(); ++f) {
      if (searches[f] < 0) continue;
      const std::size_t i = guesses_.index_of(static_cast<std::size_t>(task.task.unit),
                                              static_cast<std::size_t>(searches[f]));
      if (is_same(guesses_.guessed[i], exact_[i])) continue;
      found = true;
      if (!task.is_listed || !is_listed(i)) unlisted.push_back(f);
    }
    return found;
  }

  // Makes the tiles of some candidates right, and adds up their results; or notes the ranges to
  // combine again.
  void settle_tiles(std::size_t number, const std::vector<std::size_t>& candidates,
                    const std::vector<std::vector<std::size_t>>& unlisted, Settled& settled) {
    GuessedTask& task = guesses_.tasks[number];
    std::vector<Candidate> wrong = task.task.candidates, right = exact(task);
    const std::size_t n = candidates.size();
    std::vector<std::uint8_t> is_left(task.tiles.size() * n);
    std::atomic<std::uint64_t> n_repaired = 0;
    parallel_for(task.tiles.size(), limits_.n_threads, [&](std::size_t i) {
      GuessedTile& tile = task.tiles[i];
      const std::vector<Patterns> magnitudes = magnitudes_of(plan_, task, tile.listed);
      for (std::size_t j = 0; j < n; ++j) {
        const std::size_t k = candidates[j];
        std::uint8_t& left = is_left[i * n + j];
        for (const std::size_t f : unlisted[k])
          left |= differs(tile, floors_of(wrong[k])[f], floors_of(right[k])[f]);
        if (left) continue;
        const std::optional<std::size_t> found =
            repair(plan_, task, k, right[k], magnitudes, tile, cancelled_);
        left = !found;
        n_repaired += found.value_or(0);
      }
    });
    guesses_.n_repaired += n_repaired;
    for (std::size_t j = 0; j < n; ++j) {
      const std::size_t k = candidates[j];
      CandidateResult& result = *settled.results[number][k];
      std::vector<Range> again;
      for (std::size_t i = 0; i < task.tiles.size(); ++i) {
        const GuessedTile& tile = task.tiles[i];
        const Range range{tile.first, tile.n};
        if (is_left[i * n + j])
          again.push_back(range);
        else
          add_tile(result, range, tile.candidates[k]);
      }
      join_neighbours(result.plus.ranges);
      join_neighbours(result.minus.ranges);
      join_neighbours(again);
      for (const Range& range : again)
        settled.again.push_back({number, k, range.first, range.second});
    }
  }

  // Returns whether a floor is another for some element of the tile.
  static bool differs(const GuessedTile& tile, const Floor& wrong, const Floor& right) {
    const auto cutoff = [&](const Floor& one) {
      return std::clamp(*one.cutoff, tile.first, tile.first + tile.n);
    };
    return *wrong.floor != *right.floor || cutoff(wrong) != cutoff(right);
  }

  static void add_tile(CandidateResult& sum, const Range& range,
                       const GuessedTile::Merged& merged) {
    sum.tally += merged.tally;
    if (merged.tally.cancellations == 0) return add(sum.output, merged.output);
    (merged.zero_sign > 0 ? sum.plus : sum.minus) += Guessed{{range}, merged.output};
  }

  const Plan& plan_;
  Guesses& guesses_;
  Cancelled* const cancelled_;
  const Limits& limits_;
  const Ranking ranking_;
  const RankedUnits ranked_;
  std::vector<Threshold> exact_;  // one per search, unit by unit
};

}  // namespace

Settled settle(const Plan& plan, Guesses& guesses, const Limits& limits, const Progress& progress,
               Cancelled* cancelled) {
  return Settling(plan, guesses, cancelled, limits).run(progress);
}

}  // namespace tallies
