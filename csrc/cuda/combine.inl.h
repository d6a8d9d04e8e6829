// The fused combine of one element type; combine_*.cu instantiate it.
#pragma once

#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"
#include "kernels/combine.h"

namespace tallies::cuda {
namespace {

struct Floors {
  CombineThere there;
  std::int32_t here[kMaxExperts];
  TALLIES_INLINE std::int32_t at(int expert, std::size_t i) const {
    if (here[expert] != kFloorThere) return here[expert];
    const std::int32_t floor = there.floors[expert];
    return there.cut_offs == nullptr || i < there.cut_offs[expert].count ? floor : raised(floor);
  }
  // Counts the elements, of the n from i on, that have the floors of element i.
  TALLIES_INLINE int until_cut_off(int n_experts, std::size_t i, int n) const {
    if (there.cut_offs == nullptr) return n;
    for (int e = 0; e < n_experts; ++e) {
      if (here[e] != kFloorThere) continue;
      const std::size_t cut = there.cut_offs[e].count;
      if (cut > i && cut - i < static_cast<std::size_t>(n)) n = static_cast<int>(cut - i);
    }
    return n;
  }
};

// CombineArgs with what they point to in the host's memory, as the parameter of a kernel.
struct MergeArgs {
  const void* base;
  const void* experts[kMaxExperts];
  float weights[kMaxExperts];
  Floors floors;
  int n_experts;
  float scale, divisor;
  int zero_sign;
  const std::int8_t* signs;
  std::int32_t overflow;
  void* out;
  std::size_t n;
};

// The same as merge_block asks for them, with the floors of one element.
struct ArgsAt {
  struct FloorsAt {
    const Floors& floors;
    std::size_t i;
    TALLIES_INLINE std::int32_t operator[](int expert) const { return floors.at(expert, i); }
  };
  int n_experts;
  float scale, divisor;
  std::int32_t overflow;
  const float* weights;
  FloorsAt floors;
  TALLIES_INLINE ArgsAt(const MergeArgs& args, std::size_t i)
      : n_experts(args.n_experts),
        scale(args.scale),
        divisor(args.divisor),
        overflow(args.overflow),
        weights(args.weights),
        floors{args.floors, i} {}
};

// The rows of a chunk, one after the other as merge_block asks for them: the base, if there is one,
// and then each expert. The next is on its way while one is worked on.
template <class Word, int kN>
struct RowsAhead {
  const MergeArgs& args;
  std::size_t i;
  int n;
  mutable Chunk<Word, kN> here, ahead;

  TALLIES_INLINE Chunk<Word, kN> fetch(const void* row) const {
    return load_chunk<Word, kN>(static_cast<const Word*>(row) + i, n);
  }
  TALLIES_INLINE RowsAhead(const MergeArgs& args_, std::size_t i_, int n_)
      : args(args_),
        i(i_),
        n(n_),
        ahead(fetch(args_.base == nullptr ? args_.experts[0] : args_.base)) {}
  TALLIES_INLINE const Word* operator()(int row) const {
    here = ahead;
    const int next = row == args.n_experts ? 0 : row + 1;
    if (next < args.n_experts) ahead = fetch(args.experts[next]);
    return here.v;
  }
};

// Adds what all threads of the block have counted.
__device__ __forceinline__ void add_tally(CombineTally* tally, const LaneTally& lanes,
                                          std::int32_t overflow) {
  __shared__ int signs;
  __shared__ unsigned conflicts, cancellations;
  if (threadIdx.x == 0) {
    signs = 0;
    conflicts = cancellations = 0;
  }
  __syncthreads();
  if (lanes.signs != 0) atomicAdd(&signs, lanes.signs);
  if (lanes.conflicts != 0) atomicAdd(&conflicts, static_cast<unsigned>(lanes.conflicts));
  if (lanes.cancellations != 0)
    atomicAdd(&cancellations, static_cast<unsigned>(lanes.cancellations));
  if (lanes.largest >= overflow) tally->overflow = true;  // the same value by whoever writes it
  __syncthreads();
  if (threadIdx.x != 0) return;
  using Count = unsigned long long;
  if (signs != 0)
    atomicAdd(reinterpret_cast<Count*>(&tally->sign_sum),
              static_cast<Count>(static_cast<long long>(signs)));
  if (conflicts != 0) atomicAdd(reinterpret_cast<Count*>(&tally->conflicts), Count(conflicts));
  if (cancellations != 0)
    atomicAdd(reinterpret_cast<Count*>(&tally->cancellations), Count(cancellations));
}

template <class T>
constexpr int kMergeChunk = kLoadBytes / static_cast<int>(sizeof(typename T::Word));

template <class T, bool kDelta, Vote kVote, class ToEntry, class Rule>
__global__ void __launch_bounds__(kThreads)
    merge(const __grid_constant__ MergeArgs args, CombineTally* tally) {
  using Word = typename T::Word;
  constexpr int kN = kMergeChunk<T>;
  const CombineTally* const before = args.floors.there.again;
  if (before != nullptr && (before->sign_sum <= 0 || before->cancellations == 0)) return;
  const ZeroSign zero(kVote == Vote::given ? 0 : args.zero_sign);
  LaneTally lanes;
  for_each_chunk<kN>(args.n, [&](std::size_t first, int n_chunk) {
    const std::size_t end = first + static_cast<std::size_t>(n_chunk);
    int n = 0;
    // Once, but for a chunk in which an expert is cut off.
    for (std::size_t i = first; i < end; i += static_cast<std::size_t>(n)) {
      n = args.floors.until_cut_off(args.n_experts, i, static_cast<int>(end - i));
      Chunk<std::int8_t, kN> signs{};
      if constexpr (kVote == Vote::given)
        for (int j = 0; j < kN; ++j)
          signs.v[j] = j < n ? args.signs[i + unsigned(j)] : std::int8_t{};
      const RowsAhead<Word, kN> rows(args, i, n);
      Chunk<Word, kN> out;
      merge_block<T, kDelta, ToEntry, Rule, kN / kPair>(
          ArgsAt(args, i), zero, i, rows, signs.v, lanes,
          [&](const auto& write) { write(args.scale, out.v, lanes); });
      store_chunk(static_cast<Word*>(args.out) + i, out, n);
    }
  });
  add_tally(tally, lanes, args.overflow);
}

template <class T, Gate kGate, Vote kVote, Blend kBlend>
Failure combine(const CombineArgs& args, const CombineThere* there, CombineTally* tally,
                Stream stream) {
  using Rule = typename RuleOf<kVote, kBlend>::Type;
  using ToEntry = typename EntryOf<kGate, kVote, kBlend>::Type;
  MergeArgs merged{};
  merged.base = args.base;
  for (int e = 0; e < args.n_experts; ++e) {
    merged.experts[e] = args.experts[e];
    merged.weights[e] = args.weights[e];
    merged.floors.here[e] = args.floors[e];
  }
  if (there != nullptr) merged.floors.there = *there;
  merged.n_experts = args.n_experts;
  merged.scale = args.scale;
  merged.divisor = args.divisor;
  merged.zero_sign = args.zero_sign;
  merged.signs = args.signs;
  merged.overflow = args.overflow;
  merged.out = args.out;
  merged.n = args.n;
  const auto run = [&](auto* kernel) {
    return launch_over(args.n, kMergeChunk<T>, kernel, stream, merged, tally);
  };
  if constexpr (kVote == Vote::sum && kBlend == Blend::mean_of_agreeing)
    if (args.base != nullptr && merged.floors.there.floors == nullptr &&
        UnweightedEntry::fits(args))
      return run(&merge<T, true, kVote, UnweightedEntry, Rule>);
  if (args.base != nullptr) return run(&merge<T, true, kVote, ToEntry, Rule>);
  return run(&merge<T, false, kVote, ToEntry, Rule>);
}

// Null for rules that judge an entry by all experts: their surveys run on the processor anyhow.
template <class T, Gate kGate, Vote kVote, Blend kBlend>
constexpr auto combine_of() {
  constexpr Rule rule{kGate, kVote, kBlend};
  if constexpr (stands_alone(rule) || kVote == Vote::given)
    return &combine<T, kGate, kVote, kBlend>;
  else
    return nullptr;
}

template <class T>
void fill_combine_row(Table& table) {
  int rule = 0;
#define TALLIES_FILL(gate, vote, blend)                \
  table.combine[static_cast<int>(T::kDType)][rule++] = \
      combine_of<T, Gate::gate, Vote::vote, Blend::blend>();
  TALLIES_RULES(TALLIES_FILL)
#undef TALLIES_FILL
}

}  // namespace
}  // namespace tallies::cuda
