// Fills the KernelTable of the target that includes this. TALLIES_TABLE names the exported
// constant, TALLIES_RUNS_HERE is an expression that says whether this machine runs the target.
#include "core/table.h"
#include "kernels/band.h"
#include "kernels/combine.h"
#include "kernels/across_survey.h"
#include "kernels/convert.h"
#include "kernels/drop.h"
#include "kernels/fingerprint.h"
#include "kernels/gram.h"
#include "kernels/mask.h"
#include "kernels/slots.h"
#include "kernels/sparse.h"
#include "kernels/survey.h"
#include "kernels/tall.h"
#include "kernels/weighted.h"

namespace tallies {

#define TALLIES_COMBINE(gate, vote, blend) &combine<T, Gate::gate, Vote::vote, Blend::blend>,
namespace {
template <class T>
struct Row {
  static constexpr void (*combine_[])(const CombineArgs&,
                                      CombineTally&) = {TALLIES_RULES(TALLIES_COMBINE)};
};
template <class T, class Table>
constexpr void fill_combine(Table& table) {
  for (int rule = 0; rule < kNRules; ++rule)
    table.combine[static_cast<int>(T::kDType)][rule] = Row<T>::combine_[rule];
}

bool runs_here() { return TALLIES_RUNS_HERE; }

constexpr KernelTable make_table() {
  KernelTable t{};
  t.target = TALLIES_TARGET_NAME;
  t.runs_here = &runs_here;
  fill_combine<Float32>(t);
  fill_combine<BFloat16>(t);
  fill_combine<Float16>(t);
  t.survey[0] = &survey<Float32>;
  t.survey[1] = &survey<BFloat16>;
  t.survey[2] = &survey<Float16>;
  t.magnitudes[0] = &magnitudes<Float32>;
  t.magnitudes[1] = &magnitudes<BFloat16>;
  t.magnitudes[2] = &magnitudes<Float16>;
  t.elect_signs[0] = &elect_signs<Vote::sum>;
  t.elect_signs[1] = &elect_signs<Vote::count>;
  t.widen[0] = &widen<Float32>;
  t.widen[1] = &widen<BFloat16>;
  t.widen[2] = &widen<Float16>;
  t.widen[3] = &widen_each<Float64>;
  t.widen[4] = &widen_each<Float8E4M3>;
  t.widen[5] = &widen_each<Float8E5M2>;
  t.narrow[0] = &narrow<Float32>;
  t.narrow[1] = &narrow<BFloat16>;
  t.narrow[2] = &narrow<Float16>;
  t.narrow[3] = &narrow_each<Float64>;
  t.narrow[4] = &narrow_each<Float8E4M3>;
  t.narrow[5] = &narrow_each<Float8E5M2>;
  t.subtract[0] = &subtract<Float32>;
  t.subtract[1] = &subtract<BFloat16>;
  t.subtract[2] = &subtract<Float16>;
  t.drop = &drop;
  t.sum_drawn = &sum_drawn;
  t.drop_by_rank = &drop_by_rank;
  t.short_slots = &short_slots;
  t.even_slots = &even_slots;
  t.keep_band = &keep_band;
  t.count_to = &count_to;
  t.fingerprint = &fingerprint;
  t.magnitude_mask = &magnitude_mask;
  t.tall_mask = &tall_mask;
  t.consensus_mask = &consensus_mask;
  t.tall[0] = &tall<Float32>;
  t.tall[1] = &tall<BFloat16>;
  t.tall[2] = &tall<Float16>;
  t.same_sign_mask = &same_sign_mask;
  t.sign_mask = &sign_mask;
  t.differ[0] = &differ<std::int8_t, I8s>;
  t.differ[1] = &differ<std::uint16_t, U16s>;
  t.differ[2] = &differ<std::uint32_t, U32s>;
  t.differ[3] = &differ8;
  t.apply_mask[0] = &apply_mask<Float32>;
  t.apply_mask[1] = &apply_mask<BFloat16>;
  t.apply_mask[2] = &apply_mask<Float16>;
  t.apply_merged[0] = &apply_merged<Float32>;
  t.apply_merged[1] = &apply_merged<BFloat16>;
  t.apply_merged[2] = &apply_merged<Float16>;
  t.apply_signs[0] = &apply_signs<Float32>;
  t.apply_signs[1] = &apply_signs<BFloat16>;
  t.apply_signs[2] = &apply_signs<Float16>;
  t.decode_masked[0] = &decode_masked<Float32>;
  t.decode_masked[1] = &decode_masked<BFloat16>;
  t.decode_masked[2] = &decode_masked<Float16>;
  t.decode_signs = &decode_signs;
  t.add_scaled = &add_scaled;
  t.dots = &dots;
  t.variance = &variance;
  t.keep_where = &keep_where;
  t.scores = &scores;
  t.count_overlap = &count_overlap;
  t.dot = &dot;
  t.sum_magnitudes = &sum_magnitudes;
  return t;
}
}  // namespace

extern const KernelTable TALLIES_TABLE;
constinit const KernelTable TALLIES_TABLE = make_table();

}  // namespace tallies
