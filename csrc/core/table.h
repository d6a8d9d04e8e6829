// The kernels of one instruction set as a table of functions, and the words they are called with.
// Pointers are to arrays of `n` elements unless said otherwise; no kernel keeps one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/changes.h"
#include "core/gates.h"
#include "core/magnitude.h"
#include "core/rule.h"

namespace tallies {

// Words that a list of interior patterns may be overwritten by beyond its end.
inline constexpr std::size_t kInteriorSlack = 16;

// Experts per call; bounds the stack that a kernel uses for the padded last block (64 KiB).
inline constexpr int kMaxExperts = 256;

// Rows that a weighted sum and its gradient take at a time: the total, and what they are multiplied
// with, are loaded once for all.
inline constexpr int kRowsTogether = 4;

// One of several results of a combine that differ in scale alone.
struct Multiple {
  float scale;
  void* out;
  bool overflow = false;  // found by the combine
};

struct CombineArgs {
  const void* base;  // null: experts hold the deltas themselves, the output is scale * merged
  const void* const* experts;  // n_experts arrays of the base's type
  const float* weights;        // n_experts
  const std::int32_t*
      floors;  // n_experts; an entry passes if bits(|delta|) > floor, so kKeepAll keeps all
  int n_experts;
  float scale;
  float divisor;             // Blend::mean
  int zero_sign;             // -1, 0 (drop) or +1: the sign that an exactly zero vote takes
  const std::int8_t* signs;  // Vote::given
  std::int32_t overflow;     // magnitudes from these bits on are reported as an overflow
  void* out;
  std::size_t n;
  const Score* scores = nullptr;  // n_experts; Gate::score
  Agreement agreement = Agreement::sum;
  // Gate::random: n_experts. Elements first to first + n do not pass a multiple of 2^32.
  const Draw* draws = nullptr;
  std::uint64_t first = 0;  // element of the tensor
  // If there are any, they take the place of `scale` and `out`, and have their own overflow.
  Multiple* multiples = nullptr;
  int n_multiples = 0;
  // Results where zero votes take the other sign, beside the others.
  Multiple* opposites = nullptr;
  int n_opposites = 0;
};

// Sums over the elements of a combine; halves add up to the whole.
struct CombineTally {
  std::int64_t sign_sum = 0;    // elements elected + minus elements elected -, zero votes left out
  std::uint64_t conflicts = 0;  // elements with survivors of both signs
  std::uint64_t cancellations = 0;  // those among them whose vote is exactly zero
  bool overflow = false;            // an output of CombineArgs::overflow or more, or NaN

  CombineTally& operator+=(const CombineTally& part) {
    sign_sum += part.sign_sum;
    conflicts += part.conflicts;
    cancellations += part.cancellations;
    overflow |= part.overflow;
    return *this;
  }
};

struct SurveyArgs {
  const void* base = nullptr;
  const void* expert = nullptr;
  std::size_t n = 0;
  std::int32_t low = 0, high = 0;     // patterns of magnitudes, low <= high
  std::uint32_t* interior = nullptr;  // room for n + kInteriorSlack patterns
  // True if so many magnitudes are inside that branches on them are guessed wrong.
  bool is_dense = false;
  // Unless null, as much room for the numbers of the elements inside, counted from `first`.
  std::uint32_t* positions = nullptr;
  std::uint32_t first = 0;
};

// Counts of the magnitudes at or above each end of [low, high]; those strictly inside are listed.
struct SurveyTally {
  std::uint64_t from_low = 0, above_low = 0, from_high = 0, above_high = 0;
  std::size_t n_interior = 0;
  SurveyTally& operator+=(const SurveyTally& part) {
    from_low += part.from_low;
    above_low += part.above_low;
    from_high += part.from_high;
    above_high += part.above_high;
    n_interior += part.n_interior;
    return *this;
  }
};

// Entries of x become +0 but for those that pass at random, and NaN. Elements first to first + n do
// not pass a multiple of 2^32.
struct DropArgs {
  float* x;
  std::size_t n;
  Draw draw;
  std::uint64_t first;  // element of the tensor
};

// The same with the probability low + step * rank of an entry, ranks counted from 0 for the
// smallest magnitude of its row. `own_factor` divides the entries that pass by that probability.
struct DropByRankArgs {
  float* x;
  const std::int32_t* ranks;
  std::size_t n;
  std::uint64_t key;
  std::uint64_t first;
  float low, step;
  bool own_factor;
  float factor;
};

// Magnitudes of few significant bits that have a slot each in the ranking of a row: eight octaves.
// Slots are in columns: that of number 0 is followed by those of the first of each other column.
inline constexpr std::int32_t kShortSlots = 1024, kShortColumns = 16;
inline constexpr std::int32_t kZeroSlot = kShortSlots, kOtherSlot = kZeroSlot + kShortColumns,
                              kAllSlots = kOtherSlot + 1;

constexpr std::int32_t short_slot(std::int32_t number) {
  constexpr std::int32_t kLength = kShortSlots / kShortColumns;
  return number % kLength * kShortColumns + number / kLength;
}

// How many entries of a row have no slot of their own, and if any is -0.
struct ShortSlots {
  std::size_t n_others;
  bool has_negative_zero;
};

// TALL-masks: shared = sum of experts - base, and for each expert and each of its lambdas the mask
// |x| > lambda |sum - x|. All arrays but the masks are of one type.
struct TallArgs {
  const void* base;
  const void* const* experts;
  int n_experts;
  const float* lambdas;  // n_lambdas per expert, expert by expert
  int n_lambdas;
  void* shared;
  std::uint8_t* const* masks;  // one per lambda
  std::size_t n;
};

// PCB scores of float32 deltas. With `positive`, a score below zero counts as zero, else it is
// minus the score that is cut off so; NaN is zero.
struct ScoresArgs {
  const float* const* deltas;
  const Score* scores;
  int n_experts;
  Agreement agreement;
  bool positive;
  float* const* out;
  std::size_t n;
};

// Counts of how two arrays are at odds; halves add up to the whole.
struct Contrast {
  std::uint64_t n_nonfinite = 0;  // elements that are infinite or NaN in either
  std::uint64_t n_flips = 0;      // the others whose values have opposite signs, zeros have none
  std::int32_t largest = 0;       // bits of the largest |b - a| of the others
};

// How the bits of an element become bytes that are coded apart: as they are, turned left by one so
// that the exponent of a float is a byte of its own, or as a difference, small ones of either sign
// first. With a base, of x ^ base, or of x - base modulo the patterns.
enum class Fields : std::uint8_t { bytes, rotated, difference };
inline constexpr int kFields = 3;

// Byte p of every element, the lowest first, goes to or comes from planes[p].
struct SplitArgs {
  const void* values;
  const void* base;  // null: nothing is known of the values
  Fields fields;
  std::uint8_t* const* planes;
  std::size_t n;
};
struct JoinArgs {
  const std::uint8_t* const* planes;
  const void* base;
  Fields fields;
  void* out;  // may be the base
  std::size_t n;
};

struct KernelTable {
  const char* target;
  bool (*runs_here)();

  void (*combine[kFusedDTypes][kNRules])(const CombineArgs&, CombineTally&);
  void (*survey[kFusedDTypes])(const SurveyArgs&, SurveyTally&);
  // bits(|expert - base|), base may be null
  void (*magnitudes[kFusedDTypes])(const void* base, const void* expert, std::size_t n,
                                   std::uint32_t* out);
  // The elected sign of each element as -1, 0, +1; `zero_sign` is used where the vote is zero.
  void (*elect_signs[2])(const float* const* deltas, const float* weights, int n_experts,
                         int zero_sign, std::int8_t* out, std::size_t n, CombineTally&);

  void (*widen[kDTypes])(const void* in, float* out, std::size_t n);
  void (*narrow[kDTypes])(const float* in, void* out, std::size_t n);
  // out = x - base, of arrays of one type; of float32 out may be x.
  void (*subtract[kFusedDTypes])(const void* x, const void* base, float* out, std::size_t n);
  void (*drop)(const DropArgs&);
  // Adds the magnitudes of all entries, and of what a drop would leave, element i to lane i % 8.
  void (*sum_drawn)(const DropArgs&, double before[8], double after[8]);
  void (*drop_by_rank)(const DropByRankArgs&);
  // Slots for the magnitudes of a row, with room for n + kInteriorSlack. Each of kShortSlots
  // magnitudes of few significant bits has one, the upper half of the smallest being `low`. Zeros
  // share those from kZeroSlot on, or the first alone to stay in order; others are listed.
  ShortSlots (*short_slots)(const float* row, std::size_t n, std::int32_t low, bool zeros_in_order,
                            std::uint16_t* slots, std::uint32_t* others);
  // Counts of kShortSlots in both halves of a row become the ranks of the first entries there.
  void (*short_starts)(std::uint32_t* first, std::uint32_t* second, std::uint32_t before);
  // bits(|x|) of a row and slots 0 to n_slots for them, which grow with the magnitudes; the middle
  // one is that of `middle`.
  void (*even_slots)(const float* row, std::size_t n, float middle, std::size_t n_slots,
                     std::uint32_t* patterns, std::uint32_t* slots);
  // Entries with floor < bits(|x|) <= ceiling pass, times factor; every NaN ranks as kTop.
  void (*keep_band)(float* x, std::size_t n, std::int32_t floor, std::int32_t ceiling,
                    float factor);
  // Elements up to and with the k-th, from 1, of this pattern of magnitudes; n if there are fewer.
  std::size_t (*count_to)(const float* x, std::size_t n, std::int32_t bits, std::size_t k);

  // Adds the content of `n_bytes` bytes that lie `first` bytes (a multiple of 64) into a tensor.
  void (*fingerprint)(const void* in, std::size_t n_bytes, std::uint64_t first,
                      std::uint64_t lanes[8]);

  // Packed masks: bit i % 8 of byte i / 8 is element i; bits past n in the last byte are zero.
  void (*magnitude_mask)(const float* x, std::int32_t floor, std::uint8_t* out, std::size_t n);
  void (*tall_mask)(const float* delta, const float* merged, float lambda, std::uint8_t* out,
                    std::size_t n);
  void (*consensus_mask)(const std::uint8_t* const* masks, int n_masks, int at_least,
                         std::uint8_t* out, std::size_t n);
  // Returns the bits of the largest magnitude of the sums, before they are rounded.
  std::int32_t (*tall[kFusedDTypes])(const TallArgs&);
  void (*same_sign_mask)(const float* x, const float* u, std::uint8_t* out, std::size_t n);
  void (*sign_mask)(const float* x, std::uint8_t* out, std::size_t n);
  // A mask of the elements that differ in a bit, for elements of 1, 2, 4 and 8 bytes.
  void (*differ[4])(const void* a, const void* b, std::uint8_t* out, std::size_t n);

  // Changes of elements of 1, 2, 4 and 8 bytes. Returns how many there are.
  std::size_t (*compact[4])(const CompactArgs&);
  // Byte g of gaps: g elements stay, and the next is changed, unless g is kLongGap. Returns the
  // bytes, at most one for each element set and one for each kLongGap elements.
  std::size_t (*encode_gaps)(const std::uint8_t* mask, std::size_t n, std::uint8_t* gaps);
  GapCounts (*count_gaps)(const std::uint8_t* gaps, std::size_t n_bytes);
  // Positions of the changes of a block, at most kChangeBlock elements; room for one of each, or
  // for the bytes of gaps, and kListSlack. Both return how many there are.
  std::size_t (*gap_positions)(const std::uint8_t* gaps, std::size_t n_bytes,
                               std::uint16_t* positions);
  std::size_t (*mask_positions)(const std::uint8_t* mask, std::size_t n, std::uint16_t* positions);
  // Changes the elements at some positions, or all.
  void (*scatter[4][kCodings])(const std::uint16_t* positions, std::size_t n, const void* values,
                               void* elements);
  void (*change_all[4][kCodings])(const void* values, std::size_t n, void* elements);
  // Lists the elements at some positions.
  void (*gather[4])(const std::uint16_t* positions, std::size_t n, const void* elements,
                    void* values);
  // Planes of the bytes of elements of 1, 2, 4 and 8 bytes, and back.
  void (*split_fields[4])(const SplitArgs&);
  void (*join_fields[4])(const JoinArgs&);
  // Arrays of one type. Both return the bits of the largest magnitude of the float32 results.
  std::int32_t (*apply_mask[kFusedDTypes])(const void* base, const void* shared,
                                           const std::uint8_t* mask, float scale, void* out,
                                           std::size_t n);
  // The same with a shared vector in float32; without a mask all are in it.
  std::int32_t (*apply_merged[kFusedDTypes])(const void* base, const float* merged,
                                             const std::uint8_t* mask, float scale, void* out,
                                             std::size_t n);
  std::int32_t (*apply_signs[kFusedDTypes])(const void* base, const std::uint8_t* mask,
                                            float magnitude, void* out, std::size_t n);

  // Task vectors of a store: scale * (mask ? shared : +0), and mask ? magnitude : -magnitude.
  void (*decode_masked[kFusedDTypes])(const void* shared, const std::uint8_t* mask, float scale,
                                      float* out, std::size_t n);
  void (*decode_signs)(const std::uint8_t* mask, float magnitude, float* out, std::size_t n);
  // total = total + factor * x for one row after the other, each product rounded; at most
  // kRowsTogether.
  void (*add_scaled)(float* total, const float* const* rows, const float* factors, int n_rows,
                     std::size_t n);
  // lanes[row][i % 8] = the sum of x[i] * rows[row][i], products exact.
  void (*dots)(const float* x, const float* const* rows, int n_rows, std::size_t n,
               double (*lanes)[8]);
  // Over the experts of each element, of float32 deltas.
  void (*variance)(const float* const* deltas, int n_experts, float* out, std::size_t n);
  // The same where the variance has a pattern from `low` to `high`; elsewhere a number on the same
  // side of the two, zero only where the variance is.
  void (*variance_around)(const float* const* deltas, int n_experts, std::int32_t low,
                          std::int32_t high, float* out, std::size_t n);
  // Entries of all experts become +0 where the bits of the variance are at most the floor.
  void (*keep_varied)(float* const* deltas, int n_experts, std::int32_t floor, std::size_t n);
  // Entries of x become +0 where bits(|judge|) <= floor.
  void (*keep_where)(const float* judge, std::int32_t floor, float* x, std::size_t n);
  void (*scores)(const ScoresArgs&, std::int32_t* largest);  // raises the bits, one per expert
  // Adds, for each expert, its entries with bits(|x|) > floor: those that no other expert has, and
  // the rest.
  void (*count_overlap)(const float* const* deltas, std::int32_t floor, int n_experts,
                        std::size_t n, std::uint64_t* alone, std::uint64_t* shared);

  // out[i, j] += scale * the sum over k, in order, of left[i, k] * right[k, j]. Rows of `left` have
  // `rank` elements, at least one; those of the others are a stride apart.
  void (*low_rank[kFusedDTypes])(const float* left, std::size_t n_rows, std::size_t rank,
                                 const void* right, std::size_t right_stride, std::size_t n_columns,
                                 float scale, float* out, std::size_t out_stride);

  // The divergence of the softmax of x from that of y, both raised by 1e-8: the sum of p log(p / q)
  // in float64, zero where rounding makes it negative. There is room for 2 n numbers.
  double (*divergence)(const float* x, const float* y, std::size_t n, double* room);

  // delta = b - a, +0 where either is infinite or NaN; adds to the counts.
  void (*contrast)(const float* a, const float* b, float* delta, std::size_t n, Contrast&);

  // Added to eight lanes in float64, element i to lane i % 8.
  void (*dot)(const float* a, const float* b, std::size_t n, double lanes[8]);
  void (*sum_magnitudes)(const float* x, std::size_t n, double lanes[8]);
};

// The sum of eight lanes, in the one order that all use; every NaN is the canonical one.
constexpr double sum_of_lanes(const double lanes[8]) {
  const double sum = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
                     ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  return sum == sum ? sum : __builtin_nan("");  // the sign of a NaN depends on the instructions
}

// Elements over which an inner product of arrays has eight lanes of its own. Their sums are added
// in order over each cell, and those of the cells in order.
inline constexpr std::size_t kDotStretch = 2048, kDotCell = 32 * kDotStretch;

}  // namespace tallies
