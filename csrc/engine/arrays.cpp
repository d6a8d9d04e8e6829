#include "engine/arrays.h"

#include <algorithm>
#include <functional>

#include "engine/combine.h"
#include "engine/select.h"
#include "engine/views.h"
#include "stream/pages.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Up to so many elements starting a thread costs more than the whole merge: a chunk, which the
// stack can hold.
constexpr std::size_t kSmall = kChunk;

Array place(const void* data, DType dtype) {
  return {-1, reinterpret_cast<std::uint64_t>(data),
          static_cast<std::uint32_t>(8 * size_of(dtype))};
}

// Arrays in memory take no buffers of their own.
Limits limits(int n_threads) {
  return {n_threads > 0 ? n_threads : default_threads(), std::size_t(1) << 20};
}

bool go_on(std::uint64_t) { return true; }

// The divisor of Blend::mean, added up in the order of the experts.
float sum_of_weights(const std::vector<float>& weights) {
  float sum = 0;
  for (const float weight : weights) sum += weight;
  return sum;
}

Kept kept(const Trim& trim, bool exactly, const Threshold& found, std::uint64_t cutoff,
          std::size_t n) {
  if (trim.rank == 0) return {trim.keep_all ? kKeepAll : kKeepNone, n};
  return {found.bits - 1, exactly ? cutoff : n};
}

// Returns a small array in float32: as it is, or widened into `wide`.
const float* widened(View x, std::size_t n, float* wide) {
  if (x.dtype == DType::f32) return static_cast<const float*>(x.data);
  kernels().widen[static_cast<int>(x.dtype)](x.data, wide, n);
  return wide;
}

void small_magnitudes(const void* base, DType base_type, View expert, std::size_t n,
                      std::uint32_t* out) {
  if (base == nullptr || base_type == expert.dtype) {
    kernels().magnitudes[static_cast<int>(expert.dtype)](base, expert.data, n, out);
    return;
  }
  float both[2][kSmall];
  const float* const wide_base = widened({base, base_type}, n, both[0]);
  kernels().magnitudes[0](wide_base, widened(expert, n, both[1]), n, out);
}

std::int32_t small_kth(const std::uint32_t* patterns, std::size_t n, std::uint64_t rank) {
  std::vector<std::uint32_t> ranked(patterns, patterns + n);
  const auto nth = ranked.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(ranked.begin(), nth, ranked.end(), std::greater<>());
  return static_cast<std::int32_t>(*nth);
}

// Returns the element from which on entries with these bits fail, if only `rank` entries pass.
std::uint64_t small_cutoff(const std::uint32_t* patterns, std::size_t n, std::int32_t bits,
                           std::uint64_t rank) {
  const auto pattern = static_cast<std::uint32_t>(bits);
  for (std::size_t i = 0; i < n; ++i) rank -= patterns[i] > pattern;
  for (std::size_t i = 0; i < n; ++i)
    if (patterns[i] == pattern && --rank == 0)
      return std::find(patterns + i + 1, patterns + n, pattern) == patterns + n ? n : i + 1;
  return n;
}

std::vector<Kept> small_survey(const ArrayMerge& merge) {
  std::vector<Kept> all;
  for (std::size_t e = 0; e < merge.experts.size(); ++e) {
    const Trim& trim = merge.trims[e];
    Threshold found;
    std::uint64_t cutoff = merge.n;
    if (trim.rank > 0) {
      std::uint32_t patterns[kSmall];
      small_magnitudes(merge.base, merge.out_type, merge.experts[e], merge.n, patterns);
      found.bits = small_kth(patterns, merge.n, trim.rank);
      if (merge.exactly) cutoff = small_cutoff(patterns, merge.n, found.bits, trim.rank);
    }
    all.push_back(kept(trim, merge.exactly, found, cutoff, merge.n));
  }
  return all;
}

void small_combine(const ArrayMerge& merge, const std::vector<std::int32_t>& floors,
                   const std::vector<std::uint64_t>& cutoffs) {
  DType type = merge.out_type;
  std::vector<const void*> rows{merge.base};
  for (const View& expert : merge.experts) rows.push_back(expert.data);
  std::vector<float> wide;
  void* out = merge.out;
  if (std::ranges::any_of(merge.experts, [&](View x) { return x.dtype != type; })) {
    type = DType::f32;
    wide.resize((rows.size() + 1) * merge.n);
    if (merge.base != nullptr) rows[0] = widened({merge.base, merge.out_type}, merge.n, &wide[0]);
    for (std::size_t e = 1; e < rows.size(); ++e)
      rows[e] = widened(merge.experts[e - 1], merge.n, &wide[e * merge.n]);
    if (merge.out_type != DType::f32) out = &wide[rows.size() * merge.n];
  }
  const std::size_t n_bytes = size_of(type);
  std::vector<std::int32_t> floors_here;
  std::vector<const void*> rows_here(rows.size());
  const auto run = [&](int zero_sign) {
    CombineTally tally;
    split_at_cutoffs(
        0, merge.n, floors, cutoffs, floors_here, [&](std::size_t first, std::size_t n) {
          const std::size_t offset = first * n_bytes;
          for (std::size_t i = 0; i < rows.size(); ++i)
            rows_here[i] =
                rows[i] == nullptr ? nullptr : static_cast<const char*>(rows[i]) + offset;
          const CombineArgs args{rows_here[0],
                                 rows_here.data() + 1,
                                 merge.weights.data(),
                                 floors_here.data(),
                                 static_cast<int>(merge.experts.size()),
                                 merge.scale,
                                 sum_of_weights(merge.weights),
                                 zero_sign,
                                 nullptr,
                                 overflow_bits(merge.out_type),
                                 static_cast<char*>(out) + offset,
                                 n};
          kernels().combine[static_cast<int>(type)][index_of(merge.rule)](args, tally);
        });
    return tally;
  };
  const CombineTally tally = run(merge.zero_sign);
  if (merge.majority && tally.sign_sum > 0 && tally.cancellations > 0) run(1);
  if (out != merge.out)
    kernels().narrow[static_cast<int>(merge.out_type)](static_cast<const float*>(out), merge.out,
                                                       merge.n);
}

void fill(Plan& plan, const ArrayMerge& merge) {
  plan.has_base = merge.base != nullptr;
  Job job{merge.n, {}, {}};
  std::vector<Source> sources;
  const auto add = [&](const void* data, DType dtype) {
    sources.push_back({.type = dtype, .array = static_cast<std::uint16_t>(job.inputs.size())});
    job.inputs.push_back(place(data, dtype));
  };
  if (plan.has_base) add(merge.base, merge.out_type);
  for (const View& expert : merge.experts) add(expert.data, expert.dtype);
  if (merge.out != nullptr) job.outputs.push_back({place(merge.out, merge.out_type), 0});
  plan.jobs.push_back(std::move(job));
  plan.sources.push_back(std::move(sources));
  plan.output_types.push_back(merge.out_type);
}

std::vector<Kept> survey(const ArrayMerge& merge, const Plan& plan, const Limits& limits) {
  Unit unit{{{0, 0, merge.n}}, {}, 0};
  for (const Trim& trim : merge.trims) unit.ranks.push_back(trim.rank);
  const std::vector<Threshold> found = select(plan, {unit}, {}, merge.exactly, limits, go_on)[0];
  std::vector<Kept> all;
  for (std::size_t e = 0; e < found.size(); ++e) {
    const bool is_cut = found[e].last_job == 0 && merge.trims[e].rank > 0;
    all.push_back(kept(merge.trims[e], merge.exactly, found[e],
                       is_cut ? found[e].last_count : merge.n, merge.n));
  }
  return all;
}

void combine_whole(const ArrayMerge& merge, const Plan& plan, Candidate candidate,
                   const Limits& limits) {
  const CombineOptions options{merge.rule, false, false};
  const auto run = [&](const Slice& slice) {
    return combine(plan, {{slice, {candidate}, {}, {}}}, options, limits, go_on)[0].candidates[0];
  };
  const CandidateResult found = run({0, 0, merge.n});
  if (!merge.majority) return;
  candidate.majority = -1;
  candidate.zero_sign = found.tally.sign_sum > 0 ? 1 : merge.zero_sign;
  const Guessed& wrong = candidate.zero_sign > 0 ? found.minus : found.plus;
  for (const auto& [first, n] : wrong.ranges) run({0, first, n});
}

}  // namespace

std::int32_t kth_magnitude(View x, std::size_t n, std::uint64_t rank, int n_threads) {
  if (n <= kSmall) {
    std::uint32_t patterns[kSmall];
    small_magnitudes(nullptr, x.dtype, x, n, patterns);
    return small_kth(patterns, n, rank);
  }
  ArrayMerge all{};
  all.n = n;
  all.experts = {x};
  Plan plan;
  fill(plan, all);
  return select(plan, {Unit{{{0, 0, n}}, {rank}, 0}}, {}, false, limits(n_threads), go_on)[0][0]
      .bits;
}

std::vector<Kept> merge(const ArrayMerge& merge, int n_threads) {
  const bool is_small = merge.n <= kSmall;
  Plan plan;
  if (!is_small) fill(plan, merge);
  const std::vector<Kept> kept =
      is_small ? small_survey(merge) : survey(merge, plan, limits(n_threads));
  std::vector<std::int32_t> floors;
  std::vector<std::uint64_t> cutoffs;
  for (const Kept& one : kept) {
    floors.push_back(one.floor);
    cutoffs.push_back(one.cutoff);
  }
  if (is_small) {
    small_combine(merge, floors, cutoffs);
    return kept;
  }
  prefer_huge_pages(merge.out, merge.n * size_of(merge.out_type));
  Candidate candidate{merge.weights, 0, floors, cutoffs, merge.scale};
  candidate.divisor = sum_of_weights(merge.weights);
  candidate.zero_sign = merge.zero_sign;
  candidate.majority = merge.majority ? 0 : -1;
  combine_whole(merge, plan, std::move(candidate), limits(n_threads));
  return kept;
}

}  // namespace tallies
