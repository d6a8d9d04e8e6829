// The passes of a selection over the units of a plan.
#pragma once

#include <functional>
#include <optional>

#include "engine/pass.h"
#include "engine/ranked_numbers.h"

namespace tallies {

// The rounds of a selection over the part of its units that a plan has. Each round fills a vector
// with an item for each search of all units, and returns false if the progress stopped the round.
class Rounds {
 public:
  Rounds(const RankedUnits&, const Selection&, const Limits&, const Progress&);

  std::size_t index_of(std::size_t unit, std::size_t search) const { return first_[unit] + search; }
  std::size_t n_searches() const { return first_.back(); }

  // Lists a sample of the numbers that the searches [from, to) of each unit rank; all numbers of a
  // unit of up to kSmallUnit elements.
  bool sample(std::size_t from, std::size_t to, std::vector<Patterns>& samples) const;

  // Returns the counts with which a round starts, one for each search.
  std::vector<Counted> start() const;

  // Counts in and around the brackets that open searches try. Calls note(search, tile, tried) with
  // the counts of a tile; `search` is a number within the unit.
  using Note = std::function<void(std::size_t search, const Tile&, const AtBracket&)>;
  bool count(const Tiling&, std::vector<Counted>& counts, const Note& note) const;

  // Counts with other brackets, for each search for which bracket(search) has one: calls
  // add(search, tile, count) with the counts of a tile.
  template <class BracketOf, class Add>
  bool count_in(const Tiling& tiling, const BracketOf& bracket, const Add& add) const {
    return for_each_tile<Scratch>(
        ranked_.plan().files, ranked_.jobs(), tiling, limits_, progress_,
        [&](const Tile& tile, Scratch& scratch) {
          const std::size_t unit = ranked_.unit_of(tile.job);
          const std::vector<Search>& searches = selection_.groups[unit].searches;
          scratch.wanted.clear();
          for (std::size_t s = 0; s < searches.size(); ++s)
            if (const std::optional<Bracket> tried = bracket(searches[s]))
              scratch.wanted.push_back({s, *tried, searches[s].share > 0});
          ranked_.count(scratch.wanted, tile, scratch.numbers,
                        [&](std::size_t s, const TileCount& count) { add(s, tile, count); });
        });
  }

 private:
  struct Scratch {
    NumberScratch numbers;
    std::vector<Wanted> wanted;
  };
  const RankedUnits& ranked_;
  const Selection& selection_;
  const Limits& limits_;
  const Progress& progress_;
  std::vector<std::size_t> first_;  // position of each unit's first search; at last, of all
};

// The numbers of the tiles of one unit, side by side where a tiling has the jobs in their order.
struct TilesOfUnit {
  TilesOfUnit(const RankedUnits&, const Tiling&, std::size_t unit);
  std::size_t begin, end;
  std::size_t size() const { return end - begin; }
};

// Finds the cut-offs of all searches that have one and do not know it yet.
bool cut_off(const RankedUnits&, Selection&, const Limits&, const Progress&);

// Ranges of elements of a unit in their order, all of them, and how many entries of one search
// equal its threshold in each.
struct EqualInRanges {
  std::size_t n;
  std::function<Tiling::Range(std::size_t i)> range;
  std::function<std::uint64_t(std::size_t i)> n_equal;
};

// The same for one search: the range in which the rank is reached is read again.
void cut_off_in(const RankedUnits&, const EqualInRanges&, std::size_t search, Search&,
                const Limits&);

// The same among all patterns of a unit.
void cut_off_among(const Unit&, const Patterns&, Search&);

}  // namespace tallies
