// The three choices of a merge rule: gate, vote and blend. The Python enums of the same names
// mirror them.
#pragma once

#include <cstdint>

namespace tallies {

// Decides which entries of a task vector pass.
enum class Gate : std::uint8_t {
  all,
  magnitude,  // bits(|x|) > floor
  variance,   // bits of the variance over the experts > floor; one decision for all of them
  score,      // PCB score > threshold
  random,     // each by itself with a probability, times a factor; NaN always; > floor then
};

// Who elects the sign of an element. The unweighted ones look at the values before their weights.
enum class Vote : std::uint8_t { none, sum, count, given, unweighted_sum, unweighted_count };

// Makes one value of the entries of an element that pass.
enum class Blend : std::uint8_t {
  sum,
  mean,  // the sum over CombineArgs::divisor
  sum_of_agreeing,
  mean_of_agreeing,
  weighted_mean_of_agreeing,
  largest_agreeing,
  clamped_mean_of_agreeing,  // sum of y / sum of weights, or 1e-6 if that is more
  alone_or_mean,             // weight x if one expert passes, else the sum of x / number of them
  score_weighted_mean,
  fused_sum,   // x * weight + sum with one rounding, expert by expert
  fused_mean,  // the same over CombineArgs::divisor
  largest,     // the y of largest magnitude; of equal ones the last
  swapped,     // of two, the second where it is near the first, else a point between them
};

// Puts an element of an expert into a packed mask, by its delta x and the shared vector m.
enum class MaskRule : std::uint8_t {
  tall,       // |x| > lambda |m - x|
  magnitude,  // bits(|x|) > floor
  same_sign,  // x and m have the same sign
  sign,       // x is not negative
};

// The combinations that are compiled. X(gate, vote, blend).
#define TALLIES_RULES(X)                                \
  X(all, none, sum)                                     \
  X(all, none, mean)                                    \
  X(all, none, fused_sum)                               \
  X(all, none, fused_mean)                              \
  X(all, none, largest)                                 \
  X(all, none, swapped)                                 \
  X(magnitude, none, sum)                               \
  X(magnitude, none, alone_or_mean)                     \
  X(all, sum, largest_agreeing)                         \
  X(magnitude, sum, sum_of_agreeing)                    \
  X(magnitude, sum, mean_of_agreeing)                   \
  X(magnitude, sum, weighted_mean_of_agreeing)          \
  X(magnitude, sum, largest_agreeing)                   \
  X(magnitude, count, sum_of_agreeing)                  \
  X(magnitude, count, mean_of_agreeing)                 \
  X(magnitude, count, weighted_mean_of_agreeing)        \
  X(magnitude, count, largest_agreeing)                 \
  X(magnitude, unweighted_sum, mean_of_agreeing)        \
  X(magnitude, unweighted_count, mean_of_agreeing)      \
  X(all, unweighted_sum, clamped_mean_of_agreeing)      \
  X(variance, unweighted_sum, clamped_mean_of_agreeing) \
  X(score, none, score_weighted_mean)                   \
  X(random, none, sum)                                  \
  X(random, none, mean)                                 \
  X(random, sum, sum_of_agreeing)                       \
  X(random, sum, mean_of_agreeing)                      \
  X(random, sum, weighted_mean_of_agreeing)             \
  X(random, sum, largest_agreeing)                      \
  X(random, count, sum_of_agreeing)                     \
  X(random, count, mean_of_agreeing)                    \
  X(random, count, weighted_mean_of_agreeing)           \
  X(random, count, largest_agreeing)                    \
  X(random, unweighted_sum, mean_of_agreeing)           \
  X(random, unweighted_count, mean_of_agreeing)         \
  X(all, given, sum_of_agreeing)                        \
  X(all, given, mean_of_agreeing)                       \
  X(all, given, weighted_mean_of_agreeing)              \
  X(all, given, largest_agreeing)

struct Rule {
  Gate gate;
  Vote vote;
  Blend blend;
  bool operator==(const Rule&) const = default;
};

#define TALLIES_RULE(gate, vote, blend) Rule{Gate::gate, Vote::vote, Blend::blend},
inline constexpr Rule kRules[] = {TALLIES_RULES(TALLIES_RULE)};
#undef TALLIES_RULE
inline constexpr int kNRules = sizeof(kRules) / sizeof(kRules[0]);

// The words of each rule, in the order of kRules; the Python enums have them as values.
struct RuleWords {
  const char *gate, *vote, *blend;
};
#define TALLIES_RULE_WORDS(gate, vote, blend) RuleWords{#gate, #vote, #blend},
inline constexpr RuleWords kRuleWords[] = {TALLIES_RULES(TALLIES_RULE_WORDS)};
#undef TALLIES_RULE_WORDS

// True if a rule needs nothing but weights and densities: no survey of all experts together, no
// signs from elsewhere, and one election for the signs and the values.
constexpr bool stands_alone(Rule rule) {
  return (rule.gate == Gate::all || rule.gate == Gate::magnitude) &&
         (rule.vote == Vote::none || rule.vote == Vote::sum || rule.vote == Vote::count) &&
         rule.blend != Blend::alone_or_mean && rule.blend != Blend::swapped;
}

// Position of a rule in kRules, -1 if it is not compiled.
constexpr int index_of(Rule rule) {
  for (int i = 0; i < kNRules; ++i)
    if (kRules[i] == rule) return i;
  return -1;
}

}  // namespace tallies
