// Makes lists of elements that guesses leave open shorter until they have room.

#include <algorithm>

#include "engine/repair.h"
#include "engine/verifier.h"

namespace tallies {
namespace {

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

void shorten_lists(const Plan& plan, Guesses& guesses, std::uint64_t n_bytes) {
  while (guesses.bytes_in_lists > n_bytes) {
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

}  // namespace tallies
