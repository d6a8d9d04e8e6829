// The exact rank-th largest magnitude of any number of arrays, by its digits from the highest down.
// Counts are integers, so the order in which blocks add them changes nothing.
#include "cuda/families.h"
#include "cuda/launch.h"
#include "cuda/ranking.h"
#include "kernels/types.h"

namespace tallies::cuda {
namespace {

// The 31 bits of a magnitude as three digits, the highest first, of 11, 10 and 10 bits.
constexpr int kDigits = 3;
constexpr int kFirstShift = 20, kSecondShift = 10;
constexpr int kFirstBins = 2048, kLaterBins = 1024;

// In device memory, before the candidates.
struct Selection {
  Count rank;          // among the magnitudes that begin with `prefix`
  Count n_matching;    // how many these are
  Count n_above;       // magnitudes above them
  Count n_candidates;  // of them listed so far
  Count capacity;
  std::uint32_t prefix;    // the digits that are known
  std::uint32_t listed;    // whether the candidates are listed
  Count bins[kFirstBins];  // of the next digit; bin 0 is what the others leave
};

std::uint32_t* candidates_of(void* work) {
  return reinterpret_cast<std::uint32_t*>(static_cast<Selection*>(work) + 1);
}

__global__ void __launch_bounds__(kThreads)
    begin_selection(Selection* s, Count capacity, Count rank) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kFirstBins; bin += kThreads) s->bins[bin] = 0;
  if (threadIdx.x != 0) return;
  s->rank = rank;
  s->n_matching = s->n_above = s->n_candidates = 0;
  s->capacity = capacity;
  s->prefix = s->listed = 0;
}

// The counts of a block before it adds them to the selection's bins.
struct Histogram {
  unsigned* counts;  // kFirstBins * kHistogramCopies, shared
  __device__ __forceinline__ void clear(int n_bins) const {
    for (int at = static_cast<int>(threadIdx.x); at < n_bins * kHistogramCopies; at += kThreads)
      counts[at] = 0;
    __syncthreads();
  }
  // Zeros are most of many task vectors and would all wait for one word: bin 0 is not counted.
  __device__ __forceinline__ void add(std::uint32_t bin) const {
    if (bin != 0) atomicAdd(&counts[bin * kHistogramCopies + threadIdx.x % kHistogramCopies], 1u);
  }
  __device__ __forceinline__ void add_to(Count* bins, int n_bins) const {
    __syncthreads();
    for (int bin = static_cast<int>(threadIdx.x); bin < n_bins; bin += kThreads) {
      Count sum = 0;
      for (int copy = 0; copy < kHistogramCopies; ++copy)
        sum += counts[bin * kHistogramCopies + copy];
      if (sum != 0) atomicAdd(&bins[bin], sum);
    }
  }
};

// Counts the first digit of every magnitude.
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_first(Selection* s, const void* base, const void* expert, std::size_t n_elements) {
  __shared__ unsigned counts[kFirstBins * kHistogramCopies];
  const Histogram histogram{counts};
  histogram.clear(kFirstBins);
  for_each_chunk<kN>(n_elements, [&](std::size_t i, int n) {
    std::uint32_t sizes[kN];
    load_magnitudes<T>(sizes, base, expert, i, n);
    for (int j = 0; j < kN; ++j)
      if (j < n) histogram.add(sizes[j] >> kFirstShift);
  });
  histogram.add_to(s->bins, kFirstBins);
  if (blockIdx.x == 0 && threadIdx.x == 0) atomicAdd(&s->n_matching, Count(n_elements));
}

// Counts the second digit of the magnitudes that begin with the first, and lists them if there is
// room for all. Every thread of a block goes round the loop equally often, for the block asks for
// room together.
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_second(Selection* s, std::uint32_t* candidates, const void* base, const void* expert,
                 std::size_t n_elements) {
  __shared__ unsigned counts[kFirstBins * kHistogramCopies];
  __shared__ unsigned n_found;
  __shared__ Count place;
  const Histogram histogram{counts};
  histogram.clear(kLaterBins);
  const std::uint32_t prefix = s->prefix;
  const bool listed = s->listed != 0;
  const std::size_t step = std::size_t(gridDim.x) * kThreads * kN;
  for (std::size_t start = std::size_t(blockIdx.x) * kThreads * kN; start < n_elements;
       start += step) {
    const std::size_t i = start + threadIdx.x * kN;
    const int n =
        i >= n_elements ? 0 : (n_elements - i < kN ? static_cast<int>(n_elements - i) : kN);
    std::uint32_t sizes[kN] = {};
    unsigned n_mine = 0;
    bool mine[kN] = {};
    if (n > 0) {
      load_magnitudes<T>(sizes, base, expert, i, n);
      for (int j = 0; j < kN; ++j) {
        mine[j] = j < n && sizes[j] >> kFirstShift == prefix;
        n_mine += mine[j];
        if (mine[j]) histogram.add(sizes[j] >> kSecondShift & (kLaterBins - 1));
      }
    }
    if (!listed) continue;
    if (threadIdx.x == 0) n_found = 0;
    __syncthreads();
    unsigned at = n_mine == 0 ? 0 : atomicAdd(&n_found, n_mine);
    __syncthreads();
    if (threadIdx.x == 0 && n_found != 0) place = atomicAdd(&s->n_candidates, Count(n_found));
    __syncthreads();
    for (int j = 0; j < kN; ++j)
      if (mine[j]) candidates[place + at++] = sizes[j];
  }
  histogram.add_to(s->bins, kLaterBins);
}

// Counts the third digit of what begins with the first two: of the arrays if nothing is listed ...
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_third(Selection* s, const void* base, const void* expert, std::size_t n_elements) {
  __shared__ unsigned counts[kFirstBins * kHistogramCopies];
  if (s->listed != 0) return;
  const Histogram histogram{counts};
  histogram.clear(kLaterBins);
  const std::uint32_t prefix = s->prefix;
  for_each_chunk<kN>(n_elements, [&](std::size_t i, int n) {
    std::uint32_t sizes[kN];
    load_magnitudes<T>(sizes, base, expert, i, n);
    for (int j = 0; j < kN; ++j)
      if (j < n && sizes[j] >> kSecondShift == prefix) histogram.add(sizes[j] & (kLaterBins - 1));
  });
  histogram.add_to(s->bins, kLaterBins);
}

// ... and of the candidates if they are.
__global__ void __launch_bounds__(kThreads)
    count_candidates(Selection* s, const std::uint32_t* candidates) {
  __shared__ unsigned counts[kFirstBins * kHistogramCopies];
  if (s->listed == 0) return;
  const Histogram histogram{counts};
  histogram.clear(kLaterBins);
  const std::uint32_t prefix = s->prefix;
  for_each_chunk<kN>(s->n_candidates, [&](std::size_t i, int n) {
    const Chunk<std::uint32_t, kN> sizes = load_chunk<std::uint32_t, kN>(candidates + i, n);
    for (int j = 0; j < kN; ++j)
      if (j < n && sizes.v[j] >> kSecondShift == prefix)
        histogram.add(sizes.v[j] & (kLaterBins - 1));
  });
  histogram.add_to(s->bins, kLaterBins);
}

// One block: the bin that holds the rank, counted from the top, is the next digit.
__global__ void __launch_bounds__(kThreads)
    pick_digit(Selection* s, int digit, Selected* result, std::int32_t* floor) {
  const int n_each = (digit == 0 ? kFirstBins : kLaterBins) / kThreads,
            first = static_cast<int>(threadIdx.x) * n_each;
  Count mine = 0;
  for (int bin = first; bin < first + n_each; ++bin) mine += s->bins[bin];
  // Read before the threads meet: one of them will write the next.
  const Count rank = s->rank, n_matching = s->n_matching, n_above = s->n_above;
  const Count from_here = sum_of_later(mine);
  // Bin 0 is not counted: it holds the rest of what matches.
  const bool last = threadIdx.x == 0 && rank > from_here;
  if (last || (rank > from_here - mine && rank <= from_here)) {
    Count above = from_here - mine, here = 0;
    int bin = first + n_each;
    while (bin > first) {
      --bin;
      here = bin == 0 ? n_matching - from_here + s->bins[0] : s->bins[bin];
      if (rank <= above + here) break;
      above += here;
    }
    s->prefix = s->prefix << (digit == 0 ? 11 : 10) | static_cast<std::uint32_t>(bin);
    s->rank = rank - above;
    s->n_above = n_above + above;
    s->n_matching = here;
    if (digit == 0) s->listed = here <= s->capacity;
    if (digit == kDigits - 1) {
      const auto found = static_cast<std::int32_t>(s->prefix);
      *result = {found, found - 1, n_above + above, here};
      if (floor != nullptr) *floor = found - 1;
    }
  }
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kFirstBins; bin += kThreads) s->bins[bin] = 0;
}

std::size_t selection_bytes(std::size_t capacity) {
  return sizeof(Selection) + capacity * sizeof(std::uint32_t);
}

Failure run_begin_selection(void* work, std::size_t capacity, std::uint64_t rank, Stream stream) {
  return launch(&begin_selection, 1, stream, static_cast<Selection*>(work), capacity, rank);
}

template <class T>
Failure run_count_digit(void* work, int digit, const void* base, const void* expert, std::size_t n,
                        Stream stream) {
  auto* const s = static_cast<Selection*>(work);
  if (digit == 0) return launch_over(n, kN, &count_first<T>, stream, s, base, expert, n);
  if (digit == 1)
    return launch_over(n, kN, &count_second<T>, stream, s, candidates_of(work), base, expert, n);
  return launch_over(n, kN, &count_third<T>, stream, s, base, expert, n);
}

Failure run_pick_digit(void* work, int digit, Selected* result, std::int32_t* floor,
                       Stream stream) {
  auto* const s = static_cast<Selection*>(work);
  if (digit == kDigits - 1) {
    unsigned n_blocks = 0;  // how many candidates there are is known on the device alone
    if (const Failure wrong = grid_for(std::size_t(1) << 30, 1, &n_blocks)) return wrong;
    if (const Failure wrong = launch(&count_candidates, n_blocks, stream, s, candidates_of(work)))
      return wrong;
  }
  return launch(&pick_digit, 1, stream, s, digit, result, floor);
}

}  // namespace

void fill_select(Table& table) {
  table.selection_bytes = &selection_bytes;
  table.begin_selection = &run_begin_selection;
  for_each_fused_type([&]<class T>() { table.count_digit[kIndex<T>] = &run_count_digit<T>; });
  table.pick_digit = &run_pick_digit;
}

}  // namespace tallies::cuda
