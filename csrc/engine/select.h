// The exact k-th largest magnitude of streamed task vectors, or of a number derived from them.
//
// A strided sample brackets each threshold (engine/search.h). One round counts the patterns at and
// above the ends of the bracket and lists the few inside. If the round does not name the threshold,
// further rounds narrow the proven range: always exact, in memory that depends on neither model nor
// tensor size.
#pragma once

#include <string_view>

#include "engine/search.h"
#include "engine/tasks.h"

namespace tallies {

// The number of an element that is ranked: one from each expert, or one from all experts together.
enum class Measure : std::uint8_t {
  magnitude,       // of the delta
  variance,        // variance over the experts
  score,           // PCB score, zero where it is negative
  negative_score,  // minus the PCB score, zero where that is negative
  drawn,           // magnitude of the delta after a stage that needs no whole rows
};
inline constexpr int kMeasures = 5;

struct Ranking {
  Measure measure = Measure::magnitude;
  Scores scores;
  std::vector<Stages> draws;  // per job

  bool is_derived() const { return measure != Measure::magnitude; }
  std::size_t n_numbers(std::size_t n_experts) const {
    return measure == Measure::variance ? 1 : n_experts;
  }
};

// Slices whose numbers are ranked together, and the ranks wanted: the rank-th largest, counted from
// 1; 0 for none. Ranks go through the experts in turn, again and again.
struct Unit {
  std::vector<Slice> slices;  // in the order in which equal magnitudes are preferred
  std::vector<std::uint64_t> ranks;
  float share = 0;  // above zero the ranks are this share of the numbers that are not zero, cut
                    // to an integer; for derived measures
};

// Returns the thresholds of each rank of each unit. With `locate`, also where the equal ones are
// cut off.
std::vector<std::vector<Threshold>> select(const Plan&, const std::vector<Unit>&, const Ranking&,
                                           bool locate, const Limits&, const Progress&);

// The state of a selection in rounds, each over parts of the units on any machine. Until the
// selection is done, `learn` takes the sum of the rounds that survey_round finds of the parts.
struct Selection {
  static constexpr std::string_view kMark = "tallies selection 1\n";
  struct Group {
    std::uint64_t n_elements = 0;  // of all parts of the unit
    std::vector<Search> searches;
    static auto fields(auto& one) { return std::tie(one.n_elements, one.searches); }
  };
  std::vector<Group> groups;  // one per unit
  bool is_sampled = false;
  static auto fields(auto& one) { return std::tie(one.groups, one.is_sampled); }

  bool is_done() const;
  std::vector<std::vector<Threshold>> thresholds() const;
  bool is_valid() const;
};

// A round over a part of the units: a sample at first, then counts. Rounds of two parts add up.
struct Round {
  static constexpr std::string_view kMark = "tallies round 1\n";
  std::vector<Patterns> samples;  // one per search, unit by unit
  std::vector<Counted> counts;
  static auto fields(auto& one) { return std::tie(one.samples, one.counts); }
  Round& operator+=(const Round&);
  bool is_valid() const;
};

Selection start_selection(const std::vector<Unit>&);

// The units have the parts of those that the selection is about, in the same order.
Round survey_round(const Plan&, const std::vector<Unit>&, const Ranking&, const Selection&,
                   const Limits&, const Progress&);
void learn(Selection&, const Round&);

}  // namespace tallies
