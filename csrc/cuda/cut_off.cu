// The element up to which entries that equal a threshold are kept, if only some of them are.
#include "cuda/families.h"
#include "cuda/launch.h"
#include "cuda/ranking.h"
#include "kernels/types.h"

namespace tallies::cuda {
namespace {

// Equal magnitudes are counted by segments; a block finds the segment in which the last one that is
// kept lies, and then the element.

__global__ void __launch_bounds__(kThreads)
    begin_cut_off(const Selected* selected, Count rank, CutOff* out) {
  if (threadIdx.x == 0) *out = {rank - selected->n_above, 0};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    count_equal(unsigned* counts, const Selected* selected, const void* base, const void* expert,
                std::size_t n_elements) {
  __shared__ unsigned n_equal;
  const auto wanted = static_cast<std::uint32_t>(selected->bits);
  const std::size_t n_segments = (n_elements + kSegment - 1) / kSegment;
  for (std::size_t segment = blockIdx.x; segment < n_segments; segment += gridDim.x) {
    if (threadIdx.x == 0) n_equal = 0;
    __syncthreads();
    const std::size_t first = segment * kSegment;
    const std::size_t end = n_elements - first < kSegment ? n_elements : first + kSegment;
    unsigned mine = 0;
    for (std::size_t i = first + threadIdx.x * kN; i < end; i += kThreads * kN) {
      const int n = end - i < kN ? static_cast<int>(end - i) : kN;
      std::uint32_t sizes[kN];
      load_magnitudes<T>(sizes, base, expert, i, n);
      for (int j = 0; j < kN; ++j) mine += j < n && sizes[j] == wanted;
    }
    if (mine != 0) atomicAdd(&n_equal, mine);
    __syncthreads();
    if (threadIdx.x == 0) counts[segment] = n_equal;
    __syncthreads();
  }
}

// The first of the items of all threads, each with `mine` of what is sought, in which the rank-th
// lies: true in its thread, with `before` how many come before it.
__device__ __forceinline__ bool holds(Count mine, Count all, Count rank, Count* before) {
  const Count from_here = sum_of_later(mine);
  *before = all - from_here;
  return *before < rank && rank <= *before + mine;
}

// One block.
template <class T>
__global__ void __launch_bounds__(kThreads)
    find_cut_off(const unsigned* counts, const Selected* selected, const void* base,
                 const void* expert, std::size_t n_elements, CutOff* in_out) {
  __shared__ Count all, rank, segment;
  const Count left = in_out->left;
  const std::size_t n_segments = (n_elements + kSegment - 1) / kSegment;
  const std::size_t n_each = (n_segments + kThreads - 1) / kThreads;
  const std::size_t from = threadIdx.x * n_each < n_segments ? threadIdx.x * n_each : n_segments;
  const std::size_t to = n_segments - from < n_each ? n_segments : from + n_each;
  Count mine = 0;
  for (std::size_t at = from; at < to; ++at) mine += counts[at];
  const Count from_here = sum_of_later(mine);
  if (threadIdx.x == 0) all = from_here;
  __syncthreads();
  if (left > all) {  // all of this array are kept, and more
    if (threadIdx.x == 0) *in_out = {left - all, n_elements};
    return;
  }
  if (left == 0) {  // none of this array are kept
    if (threadIdx.x == 0) *in_out = {0, 0};
    return;
  }
  Count before = 0;
  if (holds(mine, all, left, &before)) {
    std::size_t at = from;
    for (; before + counts[at] < left; ++at) before += counts[at];
    segment = at;
    rank = left - before;
  }
  __syncthreads();
  constexpr unsigned kEach = kSegment / kThreads;
  const std::size_t first = segment * kSegment + threadIdx.x * kEach;
  const auto wanted = static_cast<std::uint32_t>(selected->bits);
  const Count wanted_rank = rank;
  std::uint32_t sizes[kN];
  mine = 0;
  for (unsigned part = 0; part < kEach; part += kN) {
    const std::size_t i = first + part;
    if (i >= n_elements) break;
    const int n = n_elements - i < kN ? static_cast<int>(n_elements - i) : kN;
    load_magnitudes<T>(sizes, base, expert, i, n);
    for (int j = 0; j < kN; ++j) mine += j < n && sizes[j] == wanted;
  }
  if (holds(mine, counts[segment], wanted_rank, &before)) {
    for (unsigned part = 0; part < kEach; part += kN) {
      const std::size_t i = first + part;
      if (i >= n_elements) break;
      const int n = n_elements - i < kN ? static_cast<int>(n_elements - i) : kN;
      load_magnitudes<T>(sizes, base, expert, i, n);
      for (int j = 0; j < kN; ++j) {
        before += j < n && sizes[j] == wanted;
        if (before == wanted_rank) {
          *in_out = {0, i + static_cast<std::size_t>(j) + 1};
          return;
        }
      }
    }
  }
}

std::size_t cut_off_bytes(std::size_t n) {
  return (n + kSegment - 1) / kSegment * sizeof(unsigned);
}

Failure run_begin_cut_off(const Selected* selected, std::uint64_t rank, CutOff* out,
                          Stream stream) {
  return launch(&begin_cut_off, 1, stream, selected, rank, out);
}

template <class T>
Failure run_cut_off(void* work, const Selected* selected, const void* base, const void* expert,
                    std::size_t n, CutOff* in_out, Stream stream) {
  auto* const counts = static_cast<unsigned*>(work);
  unsigned n_blocks = 0;
  if (const Failure wrong = grid_for(n, kSegment, &n_blocks)) return wrong;
  if (n > 0)
    if (const Failure wrong =
            launch(&count_equal<T>, n_blocks, stream, counts, selected, base, expert, n))
      return wrong;
  return launch(&find_cut_off<T>, 1, stream, counts, selected, base, expert, n, in_out);
}

}  // namespace

void fill_cut_off(Table& table) {
  table.cut_off_bytes = &cut_off_bytes;
  table.begin_cut_off = &run_begin_cut_off;
  for_each_fused_type([&]<class T>() { table.cut_off[kIndex<T>] = &run_cut_off<T>; });
}

}  // namespace tallies::cuda
