// The passes of a selection over the units of a plan.
#pragma once

#include <functional>
#include <optional>

#include "engine/pass.h"
#include "engine/ranked_numbers.h"

namespace tallies {

using Searches = std::vector<std::vector<Search*>>;  // [unit][search]

// A selection's passes; each returns false if the progress stopped it.
class Rounds {
 public:
  Rounds(const RankedUnits& ranked, const Limits& limits, const Progress& progress)
      : ranked_(ranked), limits_(limits), progress_(progress) {}

  // Lists a sample of the numbers that the searches [from, to) of each unit rank; all numbers of a
  // unit of up to kSmallUnit elements. `n_elements` is per unit.
  bool sample(const Searches&, const std::vector<std::uint64_t>& n_elements, std::size_t from,
              std::size_t to, std::vector<std::vector<Patterns>>& samples) const;

  // Counts the numbers of the jobs of a tiling in and around the brackets of each search for which
  // bracket(search) has one; calls add(search, tile, count) for what a tile has.
  template <class BracketOf, class Add>
  bool count(const Searches& searches, const Tiling& tiling, const BracketOf& bracket,
             const Add& add) const {
    struct Scratch {
      NumberScratch numbers;
      std::vector<RankedUnits::Wanted> wanted;
      std::vector<TileCount> counts;
    };
    return for_each_tile<Scratch>(
        ranked_.plan().files, ranked_.jobs(), tiling, limits_, progress_,
        [&](const Tile& tile, Scratch& scratch) {
          const std::vector<Search*>& of_unit = searches[ranked_.unit_of(tile.job)];
          scratch.wanted.clear();
          for (std::size_t s = 0; s < of_unit.size(); ++s)
            if (const std::optional<Bracket> tried = bracket(*of_unit[s]))
              scratch.wanted.push_back({s, *tried, of_unit[s]->share > 0});
          const std::size_t n = ranked_.is_derived() ? scratch.wanted.size() : 1;
          scratch.counts.resize(std::max(scratch.counts.size(), n));
          if (ranked_.is_derived())
            ranked_.count_derived(scratch.wanted, tile, scratch.numbers, scratch.counts);
          for (std::size_t i = 0; i < scratch.wanted.size(); ++i) {
            const RankedUnits::Wanted& one = scratch.wanted[i];
            TileCount& count = scratch.counts[ranked_.is_derived() ? i : 0];
            if (!ranked_.is_derived())
              ranked_.count_magnitudes(one.search, one.bracket, tile, scratch.numbers, count);
            add(one.search, tile, count);
          }
        });
  }

 private:
  const RankedUnits& ranked_;
  const Limits& limits_;
  const Progress& progress_;
};

// Finds where the last kept one of several equal magnitudes lies, for all searches of which only
// some are needed and for which that is not known.
bool cut_off(const RankedUnits&, const Searches&, const Limits&, const Progress&);

// The same for one search, of which n_equal(tile) says how many are equal in each tile: the tile in
// which the rank is reached is read again.
void cut_off_in(const RankedUnits&, const Tiling&, std::size_t unit, std::size_t search, Search&,
                const std::function<std::uint64_t(std::size_t tile)>& n_equal, const Limits&);

// The same among all patterns of a unit.
void cut_off_among(const Unit&, const Patterns&, Search&);

// Units of up to this many elements are read whole instead of being sampled: 64 Ki patterns are
// selected in memory in less time than another pass takes to start.
inline constexpr std::uint64_t kSmallUnit = 1 << 16;
// Patterns that every search may list; together they may take as much memory as the buffers.
inline constexpr std::size_t kLeastRoom = 1 << 14;

// Returns the room of each of these searches.
std::size_t room_for(std::size_t n_searches, const Limits&);

}  // namespace tallies
