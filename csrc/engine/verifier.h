// The part of a combine that works with guesses: counts each tile while it is in the cache, and
// remembers what may have to be made right.
#pragma once

#include "engine/cancelled.h"
#include "engine/guesses.h"
#include "engine/pass.h"
#include "engine/ranked_numbers.h"

namespace tallies {

class Verifier {
 public:
  // Adds the tasks to the guesses, and gives those that name a unit the guessed floors. Lists of
  // cancelled votes take up to half of the memory for lists.
  Verifier(const Plan&, std::vector<CombineTask>&, const CombineOptions&, Guesses&,
           const Cancelled*);
  ~Verifier();
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  struct Scratch {
    NumberScratch numbers;
    std::vector<Wanted> wanted;
    std::vector<Bracket> listed;      // of the searches of the unit
    std::vector<AtBracket> tried;     // likewise
    std::vector<std::uint32_t> open;  // elements of the tile that the guesses leave open
  };
  // Counts a tile of a task, before it is combined.
  void count(const Tile&, Scratch&);
  // Remembers what the tile was combined to.
  void remember(const Tile&, const CombineResult&, Scratch&);

 private:
  static std::vector<Unit> units_of(const std::vector<CombineTask>&, const Guesses&);
  Listed list(const Tile&, const GuessedTask&, Scratch&) const;
  std::uint64_t room() const;

  const Plan& plan_;
  const std::vector<CombineTask>& tasks_;
  Guesses& guesses_;
  const Cancelled* const cancelled_;
  const std::size_t first_;        // of the tasks among all of the guesses
  const std::vector<Unit> units_;  // one per task, with its slice and the ranks of its unit
  const Ranking ranking_;
  const RankedUnits ranked_;
  Parts<Counted> counts_;
  std::mutex mutex_;
};

// Makes lists shorter until they take so many bytes: halves the ranges of patterns around the
// guesses.
void shorten_lists(const Plan&, Guesses&, std::uint64_t n_bytes);

}  // namespace tallies
