// Candidates of a combine that differ in their scale alone, and share gate, vote and blend.
#pragma once

#include <algorithm>
#include <vector>

#include "engine/tasks.h"

namespace tallies {

// Numbers of candidates that differ in nothing but the scale.
using Alike = std::vector<std::size_t>;

inline bool differ_in_scale_alone(const Candidate& a, const Candidate& b) {
  return a.weights == b.weights && a.row_length == b.row_length && a.floors == b.floors &&
         a.cutoffs == b.cutoffs && a.searches == b.searches && a.divisor == b.divisor &&
         a.zero_sign == b.zero_sign && (a.majority < 0) == (b.majority < 0) && a.rule == b.rule;
}

// Returns all candidates in groups; alone where `may_join` is false.
inline std::vector<Alike> groups_alike(const std::vector<Candidate>& candidates, bool may_join) {
  std::vector<Alike> groups;
  for (std::size_t k = 0; k < candidates.size(); ++k) {
    const Candidate& one = candidates[k];
    const bool is_plain = std::holds_alternative<std::monostate>(one.traits) && !one.consensus;
    const auto same = std::ranges::find_if(groups, [&](const Alike& group) {
      const Candidate& first = candidates[group[0]];
      return std::holds_alternative<std::monostate>(first.traits) && !first.consensus &&
             differ_in_scale_alone(first, one);
    });
    if (may_join && is_plain && same != groups.end())
      same->push_back(k);
    else
      groups.push_back({k});
  }
  return groups;
}

}  // namespace tallies
