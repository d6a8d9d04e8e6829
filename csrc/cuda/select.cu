// The exact rank-th largest magnitude of any number of arrays, by its digits from the highest down,
// and where the entries that equal it are cut off. Counts are integers, so the order in which
// blocks add them changes nothing.
#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"
#include "kernels/rank.h"

namespace tallies::cuda {
namespace {

constexpr int kN = 8;
using Count = unsigned long long;

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

// What a block counts before it adds it to the selection's bins.
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

template <class T>
__device__ __forceinline__ void load_magnitudes(std::uint32_t (&out)[kN], const void* base,
                                                const void* expert, std::size_t i, int n) {
  using Word = typename T::Word;
  const Chunk<Word, kN> x = load_chunk<Word, kN>(static_cast<const Word*>(expert) + i, n);
  Chunk<Word, kN> b{};
  if (base != nullptr) b = load_chunk<Word, kN>(static_cast<const Word*>(base) + i, n);
  for (int j = 0; j < kN; ++j) {
    const float delta =
        base == nullptr ? T::in_order(x.v + j) : T::in_order(x.v + j) - T::in_order(b.v + j);
    out[j] = static_cast<std::uint32_t>(rank_of(magnitude(delta)));
  }
}

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

// Replaces each of kThreads counts, one a thread, by the sum of its own and all later threads'.
__device__ __forceinline__ Count sum_of_later(Count mine) {
  __shared__ Count sums[kThreads];
  sums[threadIdx.x] = mine;
  for (unsigned reach = 1; reach < kThreads; reach *= 2) {
    __syncthreads();
    const Count more = threadIdx.x + reach < kThreads ? sums[threadIdx.x + reach] : 0;
    __syncthreads();
    sums[threadIdx.x] += more;
  }
  __syncthreads();
  const Count sum = sums[threadIdx.x];
  __syncthreads();
  return sum;
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

// The cut-off: equal magnitudes are counted by segments, a block finds the segment in which the
// last one lies that stays, and then the element.

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
  if (left > all) {  // all of this array's stay, and more
    if (threadIdx.x == 0) *in_out = {left - all, n_elements};
    return;
  }
  if (left == 0) {  // none of this array's stay
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
  constexpr int kEach = kSegment / kThreads;
  const std::size_t first = segment * kSegment + threadIdx.x * kEach;
  const auto wanted = static_cast<std::uint32_t>(selected->bits);
  const Count wanted_rank = rank;
  std::uint32_t sizes[kN];
  mine = 0;
  for (int part = 0; part < kEach; part += kN) {
    const std::size_t i = first + part;
    if (i >= n_elements) break;
    const int n = n_elements - i < kN ? static_cast<int>(n_elements - i) : kN;
    load_magnitudes<T>(sizes, base, expert, i, n);
    for (int j = 0; j < kN; ++j) mine += j < n && sizes[j] == wanted;
  }
  if (holds(mine, counts[segment], wanted_rank, &before)) {
    for (int part = 0; part < kEach; part += kN) {
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

void fill_select(Table& table) {
  table.selection_bytes = &selection_bytes;
  table.begin_selection = &run_begin_selection;
  table.count_digit[0] = &run_count_digit<Float32>;
  table.count_digit[1] = &run_count_digit<BFloat16>;
  table.count_digit[2] = &run_count_digit<Float16>;
  table.pick_digit = &run_pick_digit;
  table.cut_off_bytes = &cut_off_bytes;
  table.begin_cut_off = &run_begin_cut_off;
  table.cut_off[0] = &run_cut_off<Float32>;
  table.cut_off[1] = &run_cut_off<BFloat16>;
  table.cut_off[2] = &run_cut_off<Float16>;
}

}  // namespace tallies::cuda
