// One read for a selection and the combine that needs it: thresholds are guessed from a sample, the
// combine counts what proves them, and what was combined with a wrong guess is made right.
#pragma once

#include <mutex>
#include <string_view>
#include <vector>

#include "engine/combine.h"
#include "engine/select.h"

namespace tallies {

// Elements of a tile that a guess leaves open, with their inputs.
struct Listed {
  std::vector<std::uint32_t> at;  // elements of the tile, in order
  std::vector<char> values;       // of each source in turn
  std::size_t n_bytes() const { return at.size() * sizeof(std::uint32_t) + values.size(); }
};

// The result of a tile with guessed thresholds, and the elements that may change the result.
struct GuessedTile {
  struct Merged {  // of one candidate
    CombineTally tally;
    Lanes output{};
    int zero_sign = 0;
  };
  std::uint64_t first;
  std::size_t n;
  std::vector<Merged> candidates;
  Listed listed;
  // One of each search of the unit, where equal ones are cut off and memory is left for it.
  std::vector<AtBracket> tried;
};

// A task whose candidates have guessed floors and cutoffs.
struct GuessedTask {
  CombineTask task;
  Rule rule;
  bool has_fingerprints;
  std::size_t position;            // of its slice among those of its unit
  bool is_listed;                  // elements that a guess leaves open are listed
  bool is_direct;                  // with their values as they are stored, else in float32
  DType type;                      // of these values
  std::vector<GuessedTile> tiles;  // in no order
};

struct Guesses {
  static constexpr std::string_view kMark = "tallies guesses 1\n";
  Selection selection;                   // what is known before the combine, and the brackets
  bool locate = false;                   // equal magnitudes are cut off at the rank
  std::vector<Threshold> guessed;        // one per search, unit by unit
  std::vector<Counted> counts;           // likewise, of the combines so far
  std::vector<std::uint64_t> n_counted;  // elements of each unit
  std::uint64_t list_bytes = 0;          // that lists may take
  std::uint64_t n_sampled = 0;           // bytes
  std::uint64_t n_listed = 0, n_repaired = 0, n_rounds = 0;
  static auto fields(auto& one) {
    return std::tie(one.selection, one.locate, one.guessed, one.counts, one.n_counted,
                    one.list_bytes, one.n_sampled, one.n_listed, one.n_repaired, one.n_rounds);
  }
  bool is_valid() const;

  // The rest is no part of the bytes.
  std::vector<Unit> units;
  std::vector<GuessedTask> tasks;  // of all combines so far
  // Per search: lists have all elements whose patterns are strictly inside, of the tasks that list.
  std::vector<Bracket> listed;
  std::size_t bytes_in_lists = 0;
  std::size_t bytes_tried = 0;  // of counts of tiles, up to a quarter of list_bytes
  bool is_settled = false;

  std::size_t index_of(std::size_t unit, std::size_t search) const { return first[unit] + search; }
  std::vector<std::size_t> first;  // position of each unit's first search
  // Takes the units, once the other fields have their values.
  void start(std::vector<Unit>);
};

struct Settled {
  std::vector<std::vector<Threshold>> thresholds;
  std::vector<std::vector<bool>> is_right;
  // Per task and candidate, of those that have changed.
  std::vector<std::vector<std::optional<CandidateResult>>> results;
  struct Again {
    std::size_t task, candidate;
    std::uint64_t first, n_elements;
  };
  std::vector<Again> again;
};

Guesses guess(const Plan&, std::vector<Unit>, bool locate, std::size_t list_bytes, const Limits&,
              const Progress&);
Settled settle(const Plan&, Guesses&, const Limits&, const Progress&, Cancelled* = nullptr);

// Returns whether patterns lie strictly inside.
inline bool has_room(const Bracket& range) { return range.high - range.low > 1; }

// Gives the candidates of a task the floors and cutoffs of these thresholds, one per search of the
// task's unit; `position` is that of its slice in the unit.
void set_floors(std::vector<Candidate>&, const Unit&, std::size_t position,
                std::span<const Threshold>);

// Returns the position of a task's slice among those of its unit; error if it lies in none of them.
std::size_t position_in(const Unit&, const CombineTask&);

}  // namespace tallies
