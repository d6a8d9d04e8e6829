// A selection over all of its units at once, step by step.
#pragma once

#include "engine/rounds.h"

namespace tallies {

class Selecting {
 public:
  // The arguments have to outlive the object.
  Selecting(const RankedUnits&, Selection&, bool locate, const Limits&, const Progress&);

  // Return false if the progress stopped the pass.
  bool sample();
  // Counts, in rounds, until all searches are done, and finds the cut-offs that are not known.
  bool finish();

  std::uint64_t n_rounds() const { return n_rounds_; }

 private:
  template <class Body>
  void for_each_open(const Body&);
  bool sample(std::size_t from, std::size_t to);
  bool count();

  const RankedUnits& ranked_;
  Selection& selection_;
  const bool locate_;
  const Limits& limits_;
  const Progress& progress_;
  const Rounds rounds_;
  std::uint64_t n_rounds_ = 0;
};

}  // namespace tallies
