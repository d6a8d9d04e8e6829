// The numbers of a candidate that guessed thresholds take the place of.
#pragma once

#include <variant>
#include <vector>

#include "core/magnitude.h"
#include "engine/tasks.h"

namespace tallies {

// A floor of some expert and its cutoff.
struct Floor {
  std::int32_t* floor;
  std::uint64_t* cutoff;
  // Returns the floor that holds for an element of the job.
  std::int32_t at(std::uint64_t element) const {
    return element >= *cutoff ? raised(*floor) : *floor;
  }
};

// Returns the floors of all experts in turn; where the experts have bands, the floors of these, and
// then the ceilings.
inline std::vector<Floor> floors_of(Candidate& candidate) {
  std::vector<Floor> floors, ceilings;
  if (auto* const stages = std::get_if<Stages>(&candidate.traits)) {
    for (Stage& stage : stages->stages)
      if (auto* const band = std::get_if<Band>(&stage)) {
        floors.push_back({&band->floor, &band->floor_cutoff});
        ceilings.push_back({&band->ceiling, &band->ceiling_cutoff});
      }
    floors.insert(floors.end(), ceilings.begin(), ceilings.end());
    return floors;
  }
  for (std::size_t e = 0; e < candidate.floors.size(); ++e)
    floors.push_back({&candidate.floors[e], &candidate.cutoffs[e]});
  return floors;
}

}  // namespace tallies
