// Finds the exact thresholds, and makes right what was combined with wrong guesses.

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "engine/guesses.h"
#include "engine/repair.h"
#include "engine/selecting.h"
#include "stream/threads.h"

namespace tallies {
namespace {

bool is_cut_alike(const Threshold& a, const Threshold& b) {
  return a.last_job == b.last_job && a.last_count == b.last_count;
}

class Settling {
 public:
  Settling(const Plan& plan, Guesses& guesses, const Limits& limits)
      : plan_(plan), guesses_(guesses), limits_(limits) {}

  Settled run(const Progress& progress) {
    require_all_counted();
    learn();
    const Ranking ranking;
    const RankedUnits ranked(plan_, guesses_.units, ranking);
    Selecting selecting(ranked, guesses_.selection, guesses_.locate, limits_, progress);
    if (!selecting.finish()) return {};
    guesses_.n_rounds += selecting.n_rounds();
    guesses_.is_settled = true;
    Settled settled;
    settled.thresholds = guesses_.selection.thresholds();
    for (const auto& row : settled.thresholds) {
      auto& is_right = settled.is_right.emplace_back();
      for (const Threshold& found : row) {
        const Threshold& guess = guesses_.guessed[exact_.size()];
        is_right.push_back(found.bits == guess.bits && is_cut_alike(found, guess));
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

  void learn() {
    std::size_t i = 0;
    for (Selection::Group& group : guesses_.selection.groups)
      for (Search& search : group.searches) {
        Counted& counted = guesses_.counts[i++];
        if (!search.done) search.learn(counted);
        counted = {};
      }
  }

  // Returns the task's candidates with exact floors and cutoffs.
  std::vector<Candidate> right(const GuessedTask& task) const {
    std::vector<Candidate> candidates = task.task.candidates;
    const auto unit = static_cast<std::size_t>(task.task.unit);
    const std::size_t n = guesses_.units[unit].ranks.size();
    set_floors(candidates, guesses_.units[unit], task.position,
               std::span(exact_).subspan(guesses_.first[unit], n));
    return candidates;
  }

  // Returns whether lists have every element that passes otherwise with the exact threshold.
  bool is_listed(const Bracket& range, const Threshold& guess, const Threshold& exact) const {
    const auto [least, most] = std::minmax(guess.bits, exact.bits);
    return range.low < least && (guesses_.locate ? most < range.high : most <= range.high);
  }

  void settle(std::size_t number, Settled& settled) {
    GuessedTask& task = guesses_.tasks[number];
    if (task.task.unit < 0) return;
    const auto unit = static_cast<std::size_t>(task.task.unit);
    bool is_wrong = false, listed = task.is_listed;
    for (const Candidate& candidate : task.task.candidates)
      for (const int search : candidate.searches) {
        if (search < 0) continue;
        const std::size_t i = guesses_.index_of(unit, static_cast<std::size_t>(search));
        if (settled.is_right[unit][static_cast<std::size_t>(search)]) continue;
        is_wrong = true;
        listed &= is_listed(guesses_.listed[i], guesses_.guessed[i], exact_[i]);
      }
    if (!is_wrong) return;
    CombineResult& result = settled.results[number].emplace();
    result.candidates.resize(task.task.candidates.size());
    const Slice& slice = task.task.slice;
    if (!listed) {
      if (slice.n_elements > 0) settled.again.push_back({number, slice.first, slice.n_elements});
      return;
    }
    for (const Range& range : repair_tiles(task, result))
      settled.again.push_back({number, range.first, range.second});
  }

  // Makes tiles right and adds up their results. Returns the ranges to combine again.
  std::vector<Range> repair_tiles(GuessedTask& task, CombineResult& result) {
    const std::vector<Candidate> candidates = right(task);
    std::vector<std::uint8_t> is_left(task.tiles.size());
    std::atomic<std::uint64_t> n_repaired = 0;
    parallel_for(task.tiles.size(), limits_.n_threads, [&](std::size_t i) {
      const std::optional<std::size_t> n = repair(plan_, task, candidates, task.tiles[i]);
      is_left[i] = !n;
      n_repaired += n.value_or(0);
    });
    guesses_.n_repaired += n_repaired;
    std::vector<Range> again;
    for (std::size_t i = 0; i < task.tiles.size(); ++i) {
      const GuessedTile& tile = task.tiles[i];
      const Range range{tile.first, tile.n};
      if (is_left[i])
        again.push_back(range);
      else
        for (std::size_t k = 0; k < candidates.size(); ++k)
          add_tile(result.candidates[k], range, tile.candidates[k]);
    }
    for (CandidateResult& one : result.candidates) {
      join_neighbours(one.plus.ranges);
      join_neighbours(one.minus.ranges);
    }
    join_neighbours(again);
    return again;
  }

  static void add_tile(CandidateResult& sum, const Range& range,
                       const GuessedTile::Merged& merged) {
    sum.tally += merged.tally;
    if (merged.tally.cancellations == 0) return add(sum.output, merged.output);
    (merged.zero_sign > 0 ? sum.plus : sum.minus) += Guessed{{range}, merged.output};
  }

  const Plan& plan_;
  Guesses& guesses_;
  const Limits& limits_;
  std::vector<Threshold> exact_;  // one per search, unit by unit
};

// Leaves on a list the elements whose magnitudes lie in one of the ranges.
void shorten(const Plan& plan, const GuessedTask& task, std::span<const Bracket> ranges,
             Listed& listed) {
  const std::vector<Patterns> magnitudes = magnitudes_of(plan, task, listed);
  const std::size_t n = listed.at.size(), n_bytes = size_of(task.type);
  std::vector<std::size_t> kept;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t s = 0; s < ranges.size(); ++s) {
      const auto bits = static_cast<std::int32_t>(magnitudes[s % magnitudes.size()][i]);
      if (bits <= ranges[s].low || bits >= ranges[s].high) continue;
      kept.push_back(i);
      break;
    }
  Listed shorter;
  for (const std::size_t i : kept) shorter.at.push_back(listed.at[i]);
  for (std::size_t row = 0; row < listed.values.size(); row += n * n_bytes)
    for (const std::size_t i : kept) {
      const auto from = listed.values.begin() + static_cast<std::ptrdiff_t>(row + i * n_bytes);
      shorter.values.insert(shorter.values.end(), from,
                            from + static_cast<std::ptrdiff_t>(n_bytes));
    }
  listed = std::move(shorter);
}

}  // namespace

void shorten_lists(const Plan& plan, Guesses& guesses) {
  while (guesses.bytes_in_lists > guesses.list_bytes) {
    for (std::size_t i = 0; i < guesses.listed.size(); ++i) {
      Bracket& range = guesses.listed[i];
      const std::int32_t guess = std::clamp(guesses.guessed[i].bits, range.low, range.high);
      range = {guess - (guess - range.low) / 2, guess + (range.high - guess) / 2};
    }
    guesses.bytes_in_lists = 0;
    for (GuessedTask& task : guesses.tasks) {
      if (task.task.unit < 0) continue;
      const auto unit = static_cast<std::size_t>(task.task.unit);
      const std::size_t n = guesses.units[unit].ranks.size();
      for (GuessedTile& tile : task.tiles) {
        if (tile.listed.at.empty()) continue;
        shorten(plan, task, std::span(guesses.listed).subspan(guesses.first[unit], n), tile.listed);
        guesses.bytes_in_lists += tile.listed.n_bytes();
      }
    }
  }
}

Settled settle(const Plan& plan, Guesses& guesses, const Limits& limits, const Progress& progress) {
  return Settling(plan, guesses, limits).run(progress);
}

}  // namespace tallies
