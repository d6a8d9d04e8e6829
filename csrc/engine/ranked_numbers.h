// The numbers that the units of a selection rank: magnitudes of task vectors, or numbers derived
// from all experts of an element.
#pragma once

#include <functional>

#include "engine/select.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {

// A thread's memory for the numbers of a tile.
struct NumberScratch {
  Reader reader;
  StageRunner stages;
  std::vector<float> values;
  std::vector<float*> rows;
  std::vector<std::int32_t> largest;
  std::vector<TileCount> counts;  // of derived numbers one per search
};

// A search whose numbers are counted in and around a bracket; `with_nonzero` also those not zero.
// With positions, of magnitudes, the elements inside are listed as well.
struct Wanted {
  std::size_t search;
  Bracket bracket;
  bool with_nonzero;
  bool with_positions = false;
};

// The slices of units as the jobs of a pass.
class RankedUnits {
 public:
  RankedUnits(const Plan&, const std::vector<Unit>&, const Ranking&);

  const Plan& plan() const { return plan_; }
  const std::vector<Unit>& units() const { return units_; }
  const std::vector<Job>& jobs() const { return jobs_; }
  std::size_t unit_of(std::size_t job) const { return owners_[job].unit; }
  // Position of a job among the slices of its unit.
  std::size_t position_of(std::size_t job) const { return owners_[job].position; }
  // Searches of a unit, at most.
  std::size_t n_searches() const { return n_searches_; }
  bool is_derived() const { return ranking_.is_derived(); }

  // Returns the jobs of the units for which test(unit) holds.
  template <class Test>
  std::vector<std::size_t> jobs_if(const Test& test) const {
    std::vector<std::size_t> found;
    for (std::size_t job = 0; job < jobs_.size(); ++job)
      if (test(owners_[job].unit)) found.push_back(job);
    return found;
  }
  // Returns the job of n elements from `first` on, of which inputs that the searches [from, to)
  // do not look at take no bytes.
  Job part_of(std::size_t job, std::uint64_t first, std::size_t n, std::size_t from,
              std::size_t to) const;

  // Lists the patterns of a tile of this job for each search that has memory in `out`.
  void list(std::size_t job, const Tile&, const std::vector<std::uint32_t*>& out,
            NumberScratch&) const;

  // Counts the numbers of a tile in and around brackets; calls add(search, count) for each.
  using AddCount = std::function<void(std::size_t search, const TileCount&)>;
  void count(const std::vector<Wanted>&, const Tile&, NumberScratch&, const AddCount& add) const;

 private:
  struct Owner {
    std::size_t unit, position;
  };
  std::size_t number_of(std::size_t plan_job, std::size_t search) const {
    return search % ranking_.n_numbers(plan_.n_experts(plan_job));
  }
  std::size_t plan_job(std::size_t job) const {
    return units_[owners_[job].unit].slices[owners_[job].position].job;
  }
  template <class Body>
  void for_one_expert(std::size_t plan_job, const Tile&, std::size_t expert, Reader&,
                      const Body&) const;
  template <class Body>
  void for_each_chunk(std::size_t plan_job, const Tile&, Bracket exact, NumberScratch&,
                      const Body&) const;

  const Plan& plan_;
  const std::vector<Unit>& units_;
  const Ranking& ranking_;
  std::vector<Job> jobs_;  // unit by unit
  std::vector<Owner> owners_;
  std::size_t n_searches_ = 0;
};

}  // namespace tallies
