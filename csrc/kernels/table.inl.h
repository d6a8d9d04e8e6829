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
#include "kernels/fields.h"
#include "kernels/fingerprint.h"
#include "kernels/gram.h"
#include "kernels/low_rank.h"
#include "kernels/mask.h"
#include "kernels/slots.h"
#include "kernels/sparse.h"
#include "kernels/survey.h"
#include "kernels/tall.h"
#include "kernels/weighted.h"

namespace tallies {

namespace {

bool runs_here() { return TALLIES_RUNS_HERE; }

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
  t.differ[0] = &differ<std::int8_t, I8s>;
  t.differ[1] = &differ<std::uint16_t, U16s>;
  t.differ[2] = &differ<std::uint32_t, U32s>;
  t.differ[3] = &differ8;
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
