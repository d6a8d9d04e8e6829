#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "bind/arrays.h"
#include "bind/check.h"
#include "core/error.h"
#include "cpu/ops.h"
#include "engine/low_rank.h"
#include "engine/sorted_range.h"

namespace tallies::bind {
namespace {

void check_experts(std::size_t n, std::size_t n_weights) {
  if (n > static_cast<std::size_t>(kMaxExperts))
    throw Error(Error::Kind::request, "at most " + std::to_string(kMaxExperts) +
                                          " experts at a time, found " + std::to_string(n));
  check_length("weights", n_weights, n, "one for each expert");
}

void check_dtype(int code, int n) { check_between("dtype", code, 0, n - 1); }

// Merges float32 deltas under the signs of the caller.
void disjoint_merge(const std::vector<Address>& deltas, const std::vector<float>& weights,
                    Address signs, int blend, Address out, std::size_t n) {
  check_experts(deltas.size(), weights.size());
  check_between("blend", blend, 0, 255);
  const int rule = index_of({Gate::all, Vote::given, static_cast<Blend>(blend)});
  if (rule < 0) throw Error(Error::Kind::request, "no such blend of agreeing values");
  const std::vector<const void*> experts = all_at<void>(deltas);
  const std::vector<std::int32_t> floors(deltas.size(), -1);
  const CombineArgs args{nullptr,
                         experts.data(),
                         weights.data(),
                         floors.data(),
                         static_cast<int>(experts.size()),
                         1.0f,
                         1.0f,
                         0,
                         at<const std::int8_t>(signs),
                         kInfinityBits,
                         at<void>(out),
                         n};
  CombineTally tally;
  kernels().combine[static_cast<int>(DType::f32)][rule](args, tally);
}

std::int64_t elect_signs(const std::vector<Address>& deltas, const std::vector<float>& weights,
                         bool by_count, int zero_sign, Address out, std::size_t n) {
  check_experts(deltas.size(), weights.size());
  check_between("zero_sign", zero_sign, -1, 1);
  const std::vector<const float*> experts = all_at<float>(deltas);
  CombineTally tally;
  kernels().elect_signs[by_count](experts.data(), weights.data(), static_cast<int>(experts.size()),
                                  zero_sign, at<std::int8_t>(out), n, tally);
  return tally.sign_sum;
}

void consensus_mask(const std::vector<Address>& masks, int at_least, Address out, std::size_t n) {
  check_experts(masks.size(), masks.size());
  const std::vector<const std::uint8_t*> rows = all_at<std::uint8_t>(masks);
  // The kernel counts in nine bits; more than all masks is more than all, however many it is.
  kernels().consensus_mask(rows.data(), static_cast<int>(rows.size()),
                           std::min(at_least, kMaxExperts + 1), at<std::uint8_t>(out), n);
}

double dot(Address a, Address b, std::size_t n) {
  double sum = 0;
  for (std::size_t cell = 0; cell < n; cell += kDotCell) {
    double of_cell = 0;
    for (std::size_t first = cell; first < std::min(cell + kDotCell, n); first += kDotStretch) {
      double lanes[8] = {};
      kernels().dot(at<const float>(a) + first, at<const float>(b) + first,
                    std::min(kDotStretch, n - first), lanes);
      of_cell += sum_of_lanes(lanes);
    }
    sum += of_cell;
  }
  return sum == sum ? sum : std::numeric_limits<double>::quiet_NaN();
}

// Combines n elements; `add` sets what is written.
template <class Add>
void combine(int dtype, int gate, int vote, int blend, Address base,
             const std::vector<Address>& experts, const std::vector<float>& weights,
             const std::vector<std::int32_t>& floors, int zero_sign, std::size_t n,
             const Add& add) {
  check_dtype(dtype, kFusedDTypes);
  check_experts(experts.size(), weights.size());
  check_length("floors", floors.size(), experts.size(), "one for each expert");
  check_between("zero_sign", zero_sign, -1, 1);
  const Rule found = to_rule(gate, vote, blend);
  const int rule = index_of(found);
  if (found.gate > Gate::magnitude || found.vote == Vote::given)
    throw Error(Error::Kind::request, "this rule needs a survey, draws or signs");
  const std::vector<const void*> rows = all_at<void>(experts);
  CombineArgs args{};
  args.base = at<const void>(base);
  args.experts = rows.data();
  args.weights = weights.data();
  args.floors = floors.data();
  args.n_experts = static_cast<int>(rows.size());
  args.divisor = 1.0f;
  args.zero_sign = zero_sign;
  args.overflow = overflow_bits(static_cast<DType>(dtype));
  args.n = n;
  add(args);
  CombineTally tally;
  kernels().combine[dtype][rule](args, tally);
}

}  // namespace

void register_kernels(py::module_& m) {
  m.def("disjoint_merge", &disjoint_merge, Native());
  m.def("elect_signs", &elect_signs, Native());
  m.def("consensus_mask", &consensus_mask, Native());
  m.def("dot", &dot, Native());
  m.def(
      "widen",
      [](Address in, int dtype, Address out, std::size_t n) {
        check_dtype(dtype, kDTypes);
        kernels().widen[dtype](at<const void>(in), at<float>(out), n);
      },
      Native());
  m.def(
      "narrow",
      [](Address in, Address out, int dtype, std::size_t n) {
        check_dtype(dtype, kDTypes);
        kernels().narrow[dtype](at<const float>(in), at<void>(out), n);
      },
      Native());
  m.def(
      "drop",
      [](Address x, std::size_t n, std::uint64_t key, std::uint64_t first, std::int32_t chance,
         float factor) { kernels().drop({at<float>(x), n, {key, chance, factor}, first}); },
      Native());
  m.def(
      "magnitude_mask",
      [](Address x, std::int32_t floor, Address out, std::size_t n) {
        kernels().magnitude_mask(at<const float>(x), floor, at<std::uint8_t>(out), n);
      },
      Native());
  m.def(
      "keep_sorted_range",
      [](Address x, Address out, std::size_t n, std::size_t first, std::size_t last,
         bool descending) {
        return keep_sorted_range(at<const float>(x), at<float>(out), n, first, last, descending);
      },
      Native());
  m.def(
      "tall_mask",
      [](Address delta, Address merged, float lambda, Address out, std::size_t n) {
        kernels().tall_mask(at<const float>(delta), at<const float>(merged), lambda,
                            at<std::uint8_t>(out), n);
      },
      Native());
  m.def(
      "apply_mask",
      [](Address base, Address shared, Address mask, float scale, Address out, std::size_t n) {
        kernels().apply_mask[0](at<const void>(base), at<const void>(shared),
                                at<const std::uint8_t>(mask), scale, at<void>(out), n);
      },
      Native());
  m.def(
      "fingerprint",
      [](Address in, std::size_t n_bytes, std::uint64_t first) {
        std::vector<std::uint64_t> lanes(8);
        kernels().fingerprint(at<const void>(in), n_bytes, first, lanes.data());
        return lanes;
      },
      Native());
  m.def(
      "low_rank",
      [](Address left, std::size_t n_rows, std::size_t rank, Address right, int dtype,
         std::size_t right_stride, std::size_t n_columns, float scale, Address out,
         std::size_t out_stride) {
        check_dtype(dtype, kFusedDTypes);
        check_between("rank", static_cast<std::int64_t>(rank), 1, std::int64_t(1) << 40);
        kernels().low_rank[dtype](at<const float>(left), n_rows, rank, at<const void>(right),
                                  right_stride, n_columns, scale, at<float>(out), out_stride);
      },
      Native());
  m.def(
      "low_rank_sum",
      [](Address base, int dtype, Address left, int left_dtype, Address right, int right_dtype,
         std::size_t n_rows, std::size_t rank, std::size_t n_columns, float scale, Address out,
         int threads) {
        check_between("threads", threads, 1, 1024);
        for (const int code : {dtype, left_dtype, right_dtype}) check_dtype(code, kFusedDTypes);
        const auto view = [](Address data, int code) {
          return View{at<const void>(data), static_cast<DType>(code)};
        };
        low_rank_sum({view(base, dtype), view(left, left_dtype), view(right, right_dtype), n_rows,
                      rank, n_columns, scale, at<void>(out)},
                     threads);
      },
      Native());
  // Benchmarks time the kernels alone, without threads or files.
  m.def(
      "survey",
      [](int dtype, Address base, Address expert, std::size_t n, std::int32_t low,
         std::int32_t high, Address interior, bool is_dense) {
        check_dtype(dtype, kFusedDTypes);
        SurveyTally tally;
        kernels().survey[dtype]({at<const void>(base), at<const void>(expert), n, low, high,
                                 at<std::uint32_t>(interior), is_dense},
                                tally);
        return std::vector<std::uint64_t>{tally.from_low, tally.above_low, tally.from_high,
                                          tally.above_high, tally.n_interior};
      },
      Native());
  m.def(
      "contrast",
      [](Address a, Address b, Address delta, std::size_t n) {
        Contrast found;
        kernels().contrast(at<const float>(a), at<const float>(b), at<float>(delta), n, found);
        return std::vector<std::uint64_t>{found.n_nonfinite, found.n_flips,
                                          static_cast<std::uint64_t>(found.largest)};
      },
      Native());
  m.def(
      "combine",
      [](int dtype, int gate, int vote, int blend, Address base,
         const std::vector<Address>& experts, const std::vector<float>& weights,
         const std::vector<std::int32_t>& floors, float scale, int zero_sign, Address out,
         std::size_t n) {
        combine(dtype, gate, vote, blend, base, experts, weights, floors, zero_sign, n,
                [&](CombineArgs& args) {
                  args.scale = scale;
                  args.out = at<void>(out);
                });
      },
      Native());
  m.def(
      "combine_scales",
      [](int dtype, int gate, int vote, int blend, Address base,
         const std::vector<Address>& experts, const std::vector<float>& weights,
         const std::vector<std::int32_t>& floors, const std::vector<float>& scales, int zero_sign,
         const std::vector<Address>& outs, const std::vector<Address>& others, std::size_t n) {
        check_length("outs", outs.size(), scales.size(), "one for each scale");
        if (!others.empty())
          check_length("others", others.size(), scales.size(), "one for each scale");
        std::vector<Multiple> multiples, opposites;
        for (std::size_t i = 0; i < outs.size(); ++i)
          multiples.push_back({scales[i], at<void>(outs[i])});
        for (std::size_t i = 0; i < others.size(); ++i)
          opposites.push_back({scales[i], at<void>(others[i])});
        combine(dtype, gate, vote, blend, base, experts, weights, floors, zero_sign, n,
                [&](CombineArgs& args) {
                  args.multiples = multiples.data();
                  args.n_multiples = static_cast<int>(multiples.size());
                  args.opposites = opposites.data();
                  args.n_opposites = static_cast<int>(opposites.size());
                });
      },
      Native());
}

}  // namespace tallies::bind
