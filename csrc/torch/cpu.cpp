#include "torch/cpu.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/ops.h"

namespace tallies::torch {
namespace {

// Elements widened at a time: two rows of float32 stay in the first-level cache. Whole stretches of
// inner products, and a multiple of the eight bits of a byte.
constexpr std::size_t kChunk = kDotStretch;

const void* at(View x, std::size_t i) {
  return static_cast<const char*>(x.data) + i * size_of(x.dtype);
}

// Calls body(rows, first, n) with every row in float32: all elements at once where they are so
// already, else in chunks that are widened on the way.
template <class Body>
void for_each_wide(const std::vector<View>& views, std::size_t n, const Body& body) {
  std::vector<const float*> rows;
  std::vector<float> rooms;
  const auto is_wide = [](View x) { return x.dtype == DType::f32; };
  if (std::ranges::all_of(views, is_wide)) {
    for (const View& x : views) rows.push_back(static_cast<const float*>(x.data));
    body(rows.data(), std::size_t(0), n);
    return;
  }
  const std::size_t chunk = std::min(n, kChunk);
  rooms.resize(views.size() * chunk);
  rows.resize(views.size());
  for (std::size_t first = 0; first < n; first += chunk) {
    const std::size_t count = std::min(chunk, n - first);
    for (std::size_t i = 0; i < views.size(); ++i) {
      float* const room = rooms.data() + i * chunk;
      rows[i] = is_wide(views[i]) ? static_cast<const float*>(at(views[i], first)) : room;
      if (!is_wide(views[i]))
        kernels().widen[static_cast<int>(views[i].dtype)](at(views[i], first), room, count);
    }
    body(rows.data(), first, count);
  }
}

// Gives zeros that are kept their sign back: a kernel's sum starts at +0.
template <class T>
void restore_zeros(const void* from, void* to, std::size_t n) {
  constexpr T kMagnitude = std::numeric_limits<T>::max() >> 1;
  const char* const x = static_cast<const char*>(from);
  char* const out = static_cast<char*>(to);
  for (std::size_t i = 0; i < n * sizeof(T); i += sizeof(T)) {
    T pattern;
    std::memcpy(&pattern, x + i, sizeof(T));
    if ((pattern & kMagnitude) == 0) std::memcpy(out + i, &pattern, sizeof(T));
  }
}

// The inner product of each pair of rows.
std::vector<double> dots(const std::vector<View>& rows,
                         const std::vector<std::pair<std::size_t, std::size_t>>& pairs,
                         std::size_t n) {
  std::vector<double> sums(pairs.size()), of_cell(pairs.size());
  for_each_wide(rows, n, [&](const float* const* wide, std::size_t first, std::size_t count) {
    for (std::size_t i = 0; i < count; i += kDotStretch) {
      const std::size_t end = first + i + kDotStretch;
      const bool is_last = end % kDotCell == 0 || end >= n;
      for (std::size_t k = 0; k < pairs.size(); ++k) {
        double lanes[8] = {};
        kernels().dot(wide[pairs[k].first] + i, wide[pairs[k].second] + i,
                      std::min(kDotStretch, count - i), lanes);
        of_cell[k] += sum_of_lanes(lanes);
        if (is_last) sums[k] += std::exchange(of_cell[k], 0.0);
      }
    }
  });
  for (double& sum : sums)
    if (sum != sum) sum = std::numeric_limits<double>::quiet_NaN();
  return sums;
}

// Returns the threads asked for; for 0, those that torch gives its own operators.
int threads_of(int n_threads) {
  if (n_threads > 0) return n_threads;
  std::uint32_t n = 1;
  call(torch_get_num_threads(&n));
  return static_cast<int>(n);
}

}  // namespace

void Cpu::kth_magnitude(Stream&, View x, std::size_t n, std::size_t rank, float* out) {
  *out = float_of(rank_magnitude(x, n, rank).bits);
}

Threshold Cpu::rank_magnitude(View x, std::size_t n, std::size_t rank) {
  return tallies::rank_magnitude(x, n, rank, threads_of(0));
}

std::uint64_t Cpu::trim(Stream&, const ArrayMerge& trim) {
  const Kept kept = tallies::merge(trim, threads_of(0)).kept[0];
  // Only a trim that keeps every magnitude keeps zeros.
  if (kept.floor >= 0) return kept.n_left_out;
  const auto n = static_cast<std::size_t>(kept.cutoff);
  if (trim.out_type == DType::f32)
    restore_zeros<std::uint32_t>(trim.experts[0].data, trim.out, n);
  else
    restore_zeros<std::uint16_t>(trim.experts[0].data, trim.out, n);
  return kept.n_left_out;
}

void Cpu::merge(Stream&, const ArrayMerge& merge, int n_threads) {
  tallies::merge(merge, threads_of(n_threads));
}

std::vector<Merged> Cpu::merge_all(const std::vector<ArrayMerge>& merges, int n_threads) {
  return tallies::merge_all(merges, threads_of(n_threads));
}

void Cpu::masked_mean(const Views& deltas, const std::vector<ConstBytes>& masks,
                      const Weights& weights, std::size_t n, void* out) {
  const DType dtype = deltas[0].dtype;
  for_each_wide(deltas, n, [&](const float* const* rows, std::size_t begin, std::size_t n_rows) {
    for (std::size_t i = 0, count; i < n_rows; i += count) {
      count = std::min(kChunk, n_rows - i);
      float sum[kChunk] = {}, n_in[kChunk] = {};
      for (std::size_t e = 0; e < deltas.size(); ++e) {
        const float* const x = rows[e] + i;
        const std::uint8_t* const mask = masks[e] + begin + i;
        for (std::size_t k = 0; k < count; ++k) {
          sum[k] += mask[k] != 0 ? x[k] * weights[e] : 0.0f;
          n_in[k] += mask[k] != 0 ? 1.0f : 0.0f;
        }
      }
      for (std::size_t k = 0; k < count; ++k) sum[k] /= std::max(n_in[k], 1.0f);
      kernels().narrow[static_cast<int>(dtype)](sum, const_cast<void*>(at({out, dtype}, begin + i)),
                                                count);
    }
  });
}

void Cpu::magnitude_mask(Stream&, View x, std::size_t n, std::int32_t floor, Bytes out) {
  for_each_wide({x}, n, [&](const float* const* rows, std::size_t first, std::size_t count) {
    kernels().magnitude_mask(rows[0], floor, out + first / 8, count);
  });
}

void Cpu::tall_mask(Stream&, View x, View merged, std::size_t n, float lambda, Bytes out) {
  for_each_wide({x, merged}, n,
                [&](const float* const* rows, std::size_t first, std::size_t count) {
                  kernels().tall_mask(rows[0], rows[1], lambda, out + first / 8, count);
                });
}

void Cpu::consensus_mask(Stream&, const std::vector<ConstBytes>& masks, int at_least, std::size_t n,
                         Bytes out) {
  // The kernel counts in nine bits; more than all masks is more than all, however many it is.
  kernels().consensus_mask(masks.data(), static_cast<int>(masks.size()),
                           std::min(at_least, kMaxExperts + 1), out, n);
}

void Cpu::pack_bits(Stream&, ConstBytes mask, std::size_t n, Bytes out) {
  static constexpr std::uint8_t kFalse[kChunk] = {};
  for (std::size_t first = 0; first < n; first += kChunk)
    kernels().differ[0](mask + first, kFalse, out + first / 8, std::min(kChunk, n - first));
}

void Cpu::unpack_bits(Stream&, ConstBytes packed, std::size_t n, Bytes out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = packed[i / 8] >> (i % 8) & 1;
}

void Cpu::change_elements(Stream&, ElementChanges& given) {
  const auto bytes_of = [](const Tensor& x, std::size_t n_bytes) {
    return std::span(static_cast<const std::uint8_t*>(x.data()), x.n() * n_bytes);
  };
  const std::size_t unit = std::size_t(1) << given.unit, n = given.elements.n();
  const auto* const ends = static_cast<const BlockEnds*>(given.blocks.data());
  const ChangedElements changes{given.layout,
                                given.coding,
                                n,
                                unit,
                                bytes_of(given.positions, 1),
                                bytes_of(given.values, unit),
                                {ends, ends + given.blocks.n() / 2}};
  tallies::check(changes);
  Positions room;
  tallies::apply(changes, 0, n, room, given.elements.mutable_data(), true);
}

void Cpu::apply_mask(Stream&, View base, View shared, ConstBytes mask, float scale, std::size_t n,
                     void* out) {
  if (base.dtype == shared.dtype) {
    kernels().apply_mask[static_cast<int>(base.dtype)](base.data, shared.data, mask, scale, out, n);
    return;
  }
  for_each_wide(
      {base, shared}, n, [&](const float* const* rows, std::size_t first, std::size_t count) {
        float rebuilt[kChunk];
        kernels().apply_mask[0](rows[0], rows[1], mask + first / 8, scale, rebuilt, count);
        kernels().narrow[static_cast<int>(base.dtype)](
            rebuilt, const_cast<void*>(at({out, base.dtype}, first)), count);
      });
}

void Cpu::elect_signs(Stream&, const Views& deltas, const Weights& weights, bool by_count,
                      int zero_sign, bool majority, std::size_t n, std::int8_t* out) {
  const auto elect = [&](int sign) {
    CombineTally tally;
    for_each_wide(deltas, n, [&](const float* const* rows, std::size_t first, std::size_t count) {
      kernels().elect_signs[by_count](rows, weights.data(), static_cast<int>(deltas.size()), sign,
                                      out + first, count, tally);
    });
    return tally.sign_sum;
  };
  if (elect(zero_sign) > 0 && majority) elect(1);
}

void Cpu::disjoint_merge(Stream&, const Views& deltas, const Weights& weights,
                         const std::int8_t* signs, Blend blend, std::size_t n, void* out) {
  const DType dtype = deltas[0].dtype;
  std::vector<const void*> rows;
  for (const View& delta : deltas) rows.push_back(delta.data);
  const std::vector<std::int32_t> floors(deltas.size(), -1);
  const CombineArgs args{nullptr,
                         rows.data(),
                         weights.data(),
                         floors.data(),
                         static_cast<int>(rows.size()),
                         1.0f,
                         1.0f,
                         0,
                         signs,
                         overflow_bits(dtype),
                         out,
                         n};
  CombineTally tally;
  const int rule = index_of({Gate::all, Vote::given, blend});
  kernels().combine[static_cast<int>(dtype)][rule](args, tally);
}

void Cpu::low_rank(Stream&, const LowRankSum& sum) { low_rank_sum(sum, threads_of(0)); }

void Cpu::gram(Stream&, const Views& deltas, std::size_t n, double* out) {
  const std::size_t n_rows = deltas.size();
  std::vector<std::pair<std::size_t, std::size_t>> pairs;
  for (std::size_t i = 0; i < n_rows; ++i)
    for (std::size_t j = 0; j <= i; ++j) pairs.emplace_back(i, j);
  const std::vector<double> sums = dots(deltas, pairs, n);
  for (std::size_t k = 0; k < pairs.size(); ++k) {
    const auto [i, j] = pairs[k];
    out[i * n_rows + j] = out[j * n_rows + i] = sums[k];
  }
}

void Cpu::block_dots(Stream&, View grad, const Views& deltas, std::size_t n, double* out) {
  Views rows = deltas;
  rows.push_back(grad);
  std::vector<std::pair<std::size_t, std::size_t>> pairs;
  for (std::size_t t = 0; t < deltas.size(); ++t) pairs.emplace_back(deltas.size(), t);
  std::ranges::copy(dots(rows, pairs, n), out);
}

}  // namespace tallies::torch
