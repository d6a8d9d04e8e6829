#include "engine/row_select.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "core/magnitude.h"
#include "cpu/ops.h"

namespace tallies {
namespace {

constexpr std::int32_t kWidest = 1 << 28;  // reach of a bracket of patterns
constexpr std::size_t kFew = 64;           // that are put in order
constexpr std::size_t kSample = 7;         // more take longer to sort than they save

struct Bracket {
  std::int32_t from, to;
};

// The entries left to look at: those between two patterns, among others.
struct Rest {
  const float* data;
  std::size_t n;
  std::int32_t low, high;
  std::size_t n_above_high, n_from_low;
};

// Returns a bracket around the rank-th largest of `rest`: two deviations of a sample either way.
Bracket sampled(const Rest& rest, std::size_t rank) {
  std::int32_t sample[kSample];
  std::int32_t* const end =
      std::remove_if(sample, sample + sample_magnitudes(rest.data, rest.n, kSample, sample),
                     [&](std::int32_t bits) { return bits < rest.low || rest.high < bits; });
  if (end == sample) return {rest.low, rest.high};
  std::partial_sort(sample, end, end, std::greater<>());  // GCC 12 warns in std::sort of so few
  const double share = (static_cast<double>(rank - rest.n_above_high) - 0.5) /
                       static_cast<double>(rest.n_from_low - rest.n_above_high);
  const double middle = share * static_cast<double>(end - sample);
  const double reach = 2 * std::sqrt(middle * (1 - share)) + 0.5;
  const auto last = static_cast<double>(end - sample - 1);
  const auto at = [&](double x) {
    return sample[static_cast<std::size_t>(std::clamp(x, 0.0, last))];
  };
  return {at(middle + reach), at(middle - reach)};
}

Bracket guessed(const RowSelect::Guess& guess) {
  return {guess.looks_down ? std::max(guess.bits - guess.reach, 0) : guess.bits,
          guess.looks_up ? std::min(guess.bits, kTop - guess.reach) + guess.reach : guess.bits};
}

}  // namespace

std::size_t sample_magnitudes(const float* x, std::size_t n, std::size_t most,
                              std::int32_t* sample) {
  std::size_t n_sample = 0;
  const std::size_t stride = std::max<std::size_t>(n / most, 1);
  for (std::size_t at = stride / 2; at < n && n_sample < most; at += stride) {
    float value;  // of a row, or a pattern of a list
    std::memcpy(&value, x + at, sizeof value);
    sample[n_sample++] = ranked(magnitude_of(value));
  }
  return n_sample;
}

// A bracket is counted; the entries strictly inside are listed and looked at further. Its ends are
// magnitudes that occur, where many are equal.
RowSelect::Found RowSelect::find(const float* row, std::size_t n, std::size_t rank, Guess& guess) {
  inside_.resize(n + kInteriorSlack);
  others_.resize(n + kInteriorSlack);
  std::uint32_t* list = inside_.data();
  std::uint32_t* next = others_.data();
  Rest rest{row, n, 0, kTop, 0, n};
  std::size_t n_above = 0;  // of the row, not in the rest
  // Ranks that a magnitude seldom moves from one row to the next: three deviations.
  const double share = static_cast<double>(rank) / static_cast<double>(n);
  const double near = 3 * std::sqrt(static_cast<double>(rank) * (1 - share)) + 4;
  bool is_guessed = false;
  const auto found = [&](std::int32_t bits, std::size_t above, std::size_t equal) {
    const std::size_t nth = rank - n_above - above;
    if (static_cast<double>(equal) > 2 * near) {
      guess.bits = bits;
      guess.looks_up = static_cast<double>(nth) <= near;
      guess.looks_down = static_cast<double>(equal - nth) <= near;
    } else if (!is_guessed || (guess.looks_up && guess.looks_down)) {
      guess.bits = guess.bits < 0 ? bits : guess.bits + (bits - guess.bits) / 4;
      guess.looks_up = guess.looks_down = true;
    }
    return Found{bits, n_above + above, equal};
  };
  Bracket bracket = guess.bits < 0 ? sampled(rest, rank) : guessed(guess);
  for (bool is_first = true;; is_first = false) {
    SurveyTally tally;
    kernels().survey[static_cast<int>(DType::f32)](
        {nullptr, rest.data, rest.n, bracket.from, bracket.to, list, true}, tally);
    const std::size_t wanted = rank - n_above;
    if (wanted <= tally.above_high) {
      rest.low = bracket.to + 1;
      rest.n_from_low = tally.above_high;
    } else if (wanted <= tally.from_high) {
      return found(bracket.to, tally.above_high, tally.from_high - tally.above_high);
    } else if (wanted <= tally.above_low) {
      if (is_first) {
        is_guessed = true;
        const double enough = near * (guess.looks_up + guess.looks_down);
        const auto listed = static_cast<double>(tally.n_interior);
        if (listed > 1.5 * enough && guess.reach > 64) guess.reach -= guess.reach / 4;
        if (listed < enough && guess.reach < kWidest) guess.reach += guess.reach / 4;
      }
      n_above += tally.from_high;
      rest = {reinterpret_cast<const float*>(list),
              tally.n_interior,
              bracket.from + 1,
              bracket.to - 1,
              0,
              tally.n_interior};
      if (rest.n <= kFew) break;
      std::swap(list, next);
    } else if (wanted <= tally.from_low) {
      return found(bracket.from, tally.above_low, tally.from_low - tally.above_low);
    } else {
      rest.high = bracket.from - 1;
      rest.n_above_high = tally.from_low;
    }
    if (is_first && rest.data == row && guess.reach < kWidest) guess.reach += guess.reach / 4;
    bracket = sampled(rest, rank - n_above);
  }
  const std::size_t wanted = rank - n_above - 1;
  std::nth_element(list, list + wanted, list + rest.n, std::greater<>());
  const std::uint32_t bits = list[wanted];
  const auto n_larger =
      std::count_if(list, list + wanted, [=](std::uint32_t other) { return other > bits; });
  return found(static_cast<std::int32_t>(bits), static_cast<std::size_t>(n_larger),
               static_cast<std::size_t>(std::count(list, list + rest.n, bits)));
}

}  // namespace tallies
