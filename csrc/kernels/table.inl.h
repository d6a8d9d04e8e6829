// Fills the KernelTable of the target that includes this. TALLIES_TABLE names the exported
// constant, TALLIES_RUNS_HERE is an expression that says whether this machine runs the target.
#include "core/table.h"
#include "kernels/across_survey.h"
#include "kernels/band.h"
#include "kernels/combine.h"
#include "kernels/contrast.h"
#include "kernels/convert.h"
#include "kernels/divergence.h"
#include "kernels/drop.h"
#include "kernels/elect.h"
#include "kernels/fields.h"
#include "kernels/fingerprint.h"
#include "kernels/gram.h"
#include "kernels/low_rank.h"
#include "kernels/mask.h"
#include "kernels/patch.h"
#include "kernels/slots.h"
#include "kernels/sparse.h"
#include "kernels/survey.h"
#include "kernels/tall.h"
#include "kernels/weighted.h"

namespace tallies {

namespace {

bool runs_here() { return TALLIES_RUNS_HERE; }

template <class Word, Coding kCoding>
constexpr void fill_made(KernelTable& t, int unit) {
  t.scatter[unit][static_cast<int>(kCoding)] = &scatter<Word, kCoding>;
  t.change_all[unit][static_cast<int>(kCoding)] = &change_all<Word, kCoding>;
}
template <class Word>
constexpr void fill_changes(KernelTable& t, int unit) {
  t.compact[unit] = &compact<Word>;
  t.gather[unit] = &gather<Word>;
  fill_made<Word, Coding::flip>(t, unit);
  fill_made<Word, Coding::difference>(t, unit);
  fill_made<Word, Coding::replacement>(t, unit);
  fill_made<Word, Coding::undone>(t, unit);
}

constexpr KernelTable make_table() {
  KernelTable t{};
  t.target = TALLIES_TARGET_NAME;
  t.runs_here = &runs_here;
  for_each_fused_type([&]<class T>() {
    constexpr int i = kIndex<T>;
    int rule = 0;
#define TALLIES_COMBINE(gate, vote, blend) \
  t.combine[i][rule++] = &combine<T, Gate::gate, Vote::vote, Blend::blend>;
    TALLIES_RULES(TALLIES_COMBINE)
#undef TALLIES_COMBINE
    t.survey[i] = &survey<T>;
    t.magnitudes[i] = &magnitudes<T>;
    t.widen[i] = &widen<T>;
    t.narrow[i] = &narrow<T>;
    t.subtract[i] = &subtract<T>;
    t.tall[i] = &tall<T>;
    t.apply_mask[i] = &apply_mask<T>;
    t.apply_merged[i] = &apply_merged<T>;
    t.apply_signs[i] = &apply_signs<T>;
    t.decode_masked[i] = &decode_masked<T>;
    t.low_rank[i] = &low_rank<T>;
  });
  for_each_scalar_type([&]<class T>() {
    t.widen[kIndex<T>] = &widen_each<T>;
    t.narrow[kIndex<T>] = &narrow_each<T>;
  });
  t.elect_signs[0] = &elect_signs<Vote::sum>;
  t.elect_signs[1] = &elect_signs<Vote::count>;
  t.drop = &drop;
  t.sum_drawn = &sum_drawn;
  t.drop_by_rank = &drop_by_rank;
  t.short_slots = &short_slots;
  t.short_starts = &short_starts;
  t.even_slots = &even_slots;
  t.keep_band = &keep_band;
  t.count_to = &count_to;
  t.fingerprint = &fingerprint;
  t.magnitude_mask = &magnitude_mask;
  t.tall_mask = &tall_mask;
  t.consensus_mask = &consensus_mask;
  t.same_sign_mask = &same_sign_mask;
  t.sign_mask = &sign_mask;
  t.differ[0] = &differ<std::uint8_t>;
  t.differ[1] = &differ<std::uint16_t>;
  t.differ[2] = &differ<std::uint32_t>;
  t.differ[3] = &differ<std::uint64_t>;
  fill_changes<std::uint8_t>(t, 0);
  fill_changes<std::uint16_t>(t, 1);
  fill_changes<std::uint32_t>(t, 2);
  fill_changes<std::uint64_t>(t, 3);
  t.encode_gaps = &encode_gaps;
  t.count_gaps = &count_gaps;
  t.gap_positions = &gap_positions;
  t.mask_positions = &mask_positions;
  t.split_fields[0] = &split_fields<std::uint8_t>;
  t.split_fields[1] = &split_fields<std::uint16_t>;
  t.split_fields[2] = &split_fields<std::uint32_t>;
  t.split_fields[3] = &split_fields<std::uint64_t>;
  t.join_fields[0] = &join_fields<std::uint8_t>;
  t.join_fields[1] = &join_fields<std::uint16_t>;
  t.join_fields[2] = &join_fields<std::uint32_t>;
  t.join_fields[3] = &join_fields<std::uint64_t>;
  t.decode_signs = &decode_signs;
  t.add_scaled = &add_scaled;
  t.dots = &dots;
  t.variance = &variance;
  t.variance_around = &variance_around;
  t.keep_varied = &keep_varied;
  t.keep_where = &keep_where;
  t.scores = &scores;
  t.count_overlap = &count_overlap;
  t.divergence = &divergence;
  t.contrast = &contrast;
  t.dot = &dot;
  t.sum_magnitudes = &sum_magnitudes;
  return t;
}
}  // namespace

extern const KernelTable TALLIES_TABLE;
constinit const KernelTable TALLIES_TABLE = make_table();

}  // namespace tallies
