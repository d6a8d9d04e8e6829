#include "engine/arrays.h"

#include <algorithm>
#include <utility>

#include "engine/aligned.h"
#include "engine/array_select.h"
#include "engine/views.h"
#include "stream/pages.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Elements of all operands for which another thread is started: a sum reads so many in the time in
// which two threads start and end. A ranking takes about as long as four sums.
constexpr std::size_t kWorth = std::size_t(1) << 20;
constexpr std::size_t kRanking = 4;

int threads_for(std::size_t n_elements, int n_threads) {
  if (n_elements < 2 * kWorth) return 1;
  return static_cast<int>(
      std::clamp<std::size_t>(n_elements / kWorth, 1, static_cast<std::size_t>(n_threads)));
}

// The divisor of Blend::mean, added up in the order of the experts.
float sum_of_weights(const std::vector<float>& weights) {
  float sum = 0;
  for (const float weight : weights) sum += weight;
  return sum;
}

const void* at(const void* data, DType dtype, std::size_t first) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + first * size_of(dtype);
}

View view(const void* data, DType dtype, std::size_t first) {
  return {at(data, dtype, first), dtype};
}

std::vector<Kept> survey(const ArrayMerge& merge, int n_threads) {
  const View base{merge.are_deltas ? nullptr : merge.base, merge.base_type};
  std::vector<Delta> ranked;
  std::vector<std::uint64_t> ranks;
  ranked.reserve(merge.experts.size());
  ranks.reserve(merge.experts.size());
  for (std::size_t e = 0; e < merge.experts.size(); ++e) {
    if (merge.trims[e].rank == 0) continue;
    ranked.push_back({base, merge.experts[e]});
    ranks.push_back(merge.trims[e].rank);
  }
  const std::vector<Threshold> found =
      select_in_memory(ranked, ranks, merge.n, merge.exactly,
                       threads_for(kRanking * merge.n * ranked.size(), n_threads));
  std::vector<Kept> all;
  all.reserve(merge.trims.size());
  std::size_t next = 0;
  for (const Trim& trim : merge.trims) {
    if (trim.rank == 0) {
      all.push_back({trim.keep_all ? kKeepAll : kKeepNone, merge.n, 0});
      continue;
    }
    const Threshold& one = found[next++];
    const std::uint64_t n_from = one.n_above + one.n_equal;
    const bool is_cut = merge.exactly && trim.rank < n_from;
    all.push_back({one.bits - 1, is_cut ? one.last_count : merge.n,
                   is_cut && one.bits > 0 ? n_from - trim.rank : 0});
  }
  return all;
}

// The blend of one tensor with known floors.
class Blending {
 public:
  Blending(const ArrayMerge& merge, const std::vector<Kept>& kept)
      : merge_(merge),
        divisor_(merge.divisor.value_or(sum_of_weights(merge.weights))),
        adds_base_(merge.base != nullptr && (merge.are_deltas || !merge.masks.empty())),
        is_fused_(!adds_base_ && merge.masks.empty() && is_alike(merge)) {
    floors_.reserve(kept.size());
    cutoffs_.reserve(kept.size());
    for (const Kept& one : kept) {
      floors_.push_back(one.floor);
      cutoffs_.push_back(one.cutoff);
    }
  }

  // Merges all, and returns whether a result is infinite or NaN. Votes that cancelled take the
  // sign of the majority, of which the first sweep guesses that it is negative.
  bool run(int n_threads) const {
    const std::size_t n_cells = (merge_.n + kCell - 1) / kCell;
    const int guess = merge_.majority ? -1 : merge_.zero_sign;
    if (n_cells == 1) return run_alone(guess);
    std::vector<CombineTally> tallies(n_cells);
    parallel_for(n_cells, n_threads, [&](std::size_t i) { tallies[i] = cell(i, guess); });
    CombineTally all;
    for (const CombineTally& one : tallies) all += one;
    const int sign = sign_of(all);
    if (!merge_.majority || sign == guess) return all.overflow;
    std::vector<std::size_t> wrong;
    for (std::size_t i = 0; i < n_cells; ++i)
      if (tallies[i].cancellations > 0) wrong.push_back(i);
    parallel_for(wrong.size(), n_threads,
                 [&](std::size_t i) { tallies[wrong[i]] = cell(wrong[i], sign); });
    return std::ranges::any_of(tallies, &CombineTally::overflow);
  }

 private:
  // The same for one cell.
  bool run_alone(int guess) const {
    CombineTally tally = cell(0, guess);
    const int sign = sign_of(tally);
    if (merge_.majority && sign != guess && tally.cancellations > 0) tally = cell(0, sign);
    return tally.overflow;
  }

  int sign_of(const CombineTally& all) const {
    return all.sign_sum > 0 ? 1 : (all.sign_sum < 0 ? -1 : merge_.zero_sign);
  }

  static bool is_alike(const ArrayMerge& merge) {
    return (merge.base == nullptr || merge.base_type == merge.out_type) &&
           std::ranges::all_of(merge.experts, [&](View x) { return x.dtype == merge.out_type; });
  }

  std::size_t n_experts() const { return merge_.experts.size(); }

  CombineTally cell(std::size_t number, int zero_sign) const {
    const std::size_t first = number * kCell, n = std::min(kCell, merge_.n - first);
    CombineTally tally;
    std::vector<std::int32_t> floors;
    std::vector<const void*> rows(n_experts());
    if (is_fused_) {
      for (std::size_t e = 0; e < n_experts(); ++e)
        rows[e] = at(merge_.experts[e].data, merge_.out_type, first);
      combine(merge_.out_type, at(merge_.base, merge_.base_type, first), rows, first, n, zero_sign,
              const_cast<void*>(at(merge_.out, merge_.out_type, first)), floors, tally);
      return tally;
    }
    AlignedFloats rooms;
    rooms.reserve((n_experts() + 3) * std::min(n, kChunk));
    for (std::size_t i = 0; i < n; i += kChunk)
      chunk(first + i, std::min(kChunk, n - i), zero_sign, rooms.data(), rows, floors, tally);
    return tally;
  }

  // Merges a chunk by way of float32, in room for each expert and three more.
  void chunk(std::size_t first, std::size_t n, int zero_sign, float* room,
             std::vector<const void*>& rows, std::vector<std::int32_t>& floors,
             CombineTally& tally) const {
    const auto next_room = [&] { return std::exchange(room, room + n); };
    const float* base = nullptr;
    if (merge_.base != nullptr)
      base = widened(view(merge_.base, merge_.base_type, first), n, next_room());
    for (std::size_t e = 0; e < n_experts(); ++e) {
      float* const own = next_room();
      const float* x =
          widened(view(merge_.experts[e].data, merge_.experts[e].dtype, first), n, own);
      if (!merge_.masks.empty()) {
        const float* const from = merge_.are_deltas ? nullptr : base;
        x = masked(x, from, merge_.masks[e] + first, n, own);
      }
      rows[e] = x;
    }
    const bool is_wide = merge_.out_type == DType::f32;
    void* const out = const_cast<void*>(at(merge_.out, merge_.out_type, first));
    float* const blended = is_wide ? static_cast<float*>(out) : next_room();
    CombineTally here;
    combine(DType::f32, adds_base_ ? nullptr : base, rows, first, n, zero_sign, blended, floors,
            here);
    if (adds_base_)
      here.overflow = kernels().apply_merged[0](base, blended, nullptr, 1.0f, blended, n) >=
                      overflow_bits(merge_.out_type);
    if (!is_wide) kernels().narrow[static_cast<int>(merge_.out_type)](blended, out, n);
    tally += here;
  }

  // Returns values in float32: as they are, or widened into `room`.
  static const float* widened(View x, std::size_t n, float* room) {
    if (x.dtype == DType::f32) return static_cast<const float*>(x.data);
    kernels().widen[static_cast<int>(x.dtype)](x.data, room, n);
    return room;
  }

  // Writes x - base, or x, with +0 where the mask is not set.
  static const float* masked(const float* x, const float* base, const std::uint8_t* mask,
                             std::size_t n, float* out) {
    if (base != nullptr) {
      kernels().subtract[0](x, base, out, n);
      x = out;
    }
    for (std::size_t i = 0; i < n; ++i) out[i] = mask[i] != 0 ? x[i] : 0.0f;
    return out;
  }

  // Runs the kernel over elements that lie `first` elements into the tensor.
  void combine(DType type, const void* base, const std::vector<const void*>& rows,
               std::size_t first, std::size_t n, int zero_sign, void* out,
               std::vector<std::int32_t>& floors, CombineTally& tally) const {
    const void* here[kMaxExperts];
    split_at_cutoffs(first, n, floors_, cutoffs_, floors, [&](std::size_t i, std::size_t n_here) {
      for (std::size_t e = 0; e < rows.size(); ++e) here[e] = at(rows[e], type, i);
      const CombineArgs args{at(base, type, i),
                             here,
                             merge_.weights.data(),
                             floors.data(),
                             static_cast<int>(rows.size()),
                             merge_.scale,
                             divisor_,
                             zero_sign,
                             nullptr,
                             overflow_bits(merge_.out_type),
                             const_cast<void*>(at(out, type, i)),
                             n_here};
      kernels().combine[static_cast<int>(type)][index_of(merge_.rule)](args, tally);
    });
  }

  const ArrayMerge& merge_;
  const float divisor_;
  const bool adds_base_, is_fused_;
  std::vector<std::int32_t> floors_;
  std::vector<std::uint64_t> cutoffs_;
};

std::size_t work_of(const ArrayMerge& merge) {
  std::size_t n_passes = merge.experts.size() + 1;
  for (const Trim& trim : merge.trims) n_passes += trim.rank > 0 ? kRanking : 0;
  return merge.n * n_passes;
}

}  // namespace

Threshold rank_magnitude(View x, std::size_t n, std::uint64_t rank, int n_threads) {
  return select_in_memory({{{nullptr, x.dtype}, x}}, {rank}, n, false,
                          threads_for(kRanking * n, n_threads))[0];
}

Merged merge(const ArrayMerge& merge, int n_threads) {
  Merged merged{survey(merge, n_threads), false};
  if (merge.n > kCell) prefer_huge_pages(merge.out, merge.n * size_of(merge.out_type));
  merged.overflow = Blending(merge, merged.kept)
                        .run(threads_for(merge.n * (merge.experts.size() + 1), n_threads));
  return merged;
}

std::vector<Merged> merge_all(const std::vector<ArrayMerge>& merges, int n_threads) {
  std::size_t work = 0;
  for (const ArrayMerge& one : merges) work += work_of(one);
  n_threads = threads_for(work, n_threads);
  std::vector<Merged> all(merges.size());
  std::vector<std::size_t> small;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    if (n_threads > 1 && work_of(merges[i]) > work / static_cast<std::size_t>(2 * n_threads))
      all[i] = merge(merges[i], n_threads);
    else
      small.push_back(i);
  }
  parallel_for(small.size(), n_threads,
               [&](std::size_t i) { all[small[i]] = merge(merges[small[i]], 1); });
  return all;
}

}  // namespace tallies
