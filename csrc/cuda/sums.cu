// Sums in float64 with a fixed shape: eight lanes for each stretch of elements, element i in lane
// i % 8, in order. A thread owns a lane, so eight neighbours read 32 bytes together.
#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"
#include "kernels/half.h"
#include "kernels/types.h"

namespace tallies::cuda {
namespace {

struct Product {
  static TALLIES_INLINE double of(double x, double y) { return x * y; }
};
struct Magnitude {
  static TALLIES_INLINE double of(double x, double) { return __builtin_fabs(x); }
};

// b may be null.
template <class T, class Term>
__global__ void __launch_bounds__(kThreads)
    sum(const typename T::Word* a, const typename T::Word* b, std::size_t n, double* lanes) {
  const std::size_t n_lanes = (n + kDotStretch - 1) / kDotStretch * 8;
  const std::size_t step = std::size_t(gridDim.x) * kThreads;
  for (std::size_t at = std::size_t(blockIdx.x) * kThreads + threadIdx.x; at < n_lanes;
       at += step) {
    const std::size_t first = at / 8 * kDotStretch;
    const std::size_t end = n - first < kDotStretch ? n : first + kDotStretch;
    double total = 0;
    for (std::size_t i = first + at % 8; i < end; i += 8)
      total = total + Term::of(T::in_order(a + i), b == nullptr ? 0.0f : T::in_order(b + i));
    lanes[at] = total;
  }
}

template <class T, class Term>
Failure run_sum(const void* a, const void* b, std::size_t n, double* lanes, Stream stream) {
  using Word = typename T::Word;
  return launch_over((n + kDotStretch - 1) / kDotStretch * 8, 1, &sum<T, Term>, stream,
                     static_cast<const Word*>(a), static_cast<const Word*>(b), n, lanes);
}

Failure sum_magnitudes(const float* x, std::size_t n, double* lanes, Stream stream) {
  return run_sum<Float32, Magnitude>(x, nullptr, n, lanes, stream);
}

// One block: each thread sums a cell, and one of them adds the sums.
__global__ void __launch_bounds__(kThreads)
    add_cells(const double* lanes, std::size_t n_stretches, double* out) {
  constexpr std::size_t kPerCell = kDotCell / kDotStretch;
  __shared__ double sums[kThreads];
  const std::size_t n_cells = (n_stretches + kPerCell - 1) / kPerCell;
  double total = *out;
  for (std::size_t first = 0; first < n_cells; first += kThreads) {
    const std::size_t cell = first + threadIdx.x;
    double of_cell = 0;
    for (std::size_t at = cell * kPerCell; at < (cell + 1) * kPerCell && at < n_stretches; ++at)
      of_cell = of_cell + sum_of_lanes(lanes + 8 * at);
    sums[threadIdx.x] = of_cell;
    __syncthreads();
    if (threadIdx.x == 0)
      for (std::size_t i = 0; i < kThreads && first + i < n_cells; ++i) total = total + sums[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = total == total ? total : __builtin_nan("");
}

Failure fold(const double* lanes, std::size_t n_stretches, double* out, Stream stream) {
  return launch(&add_cells, 1, stream, lanes, n_stretches, out);
}

}  // namespace

void fill_sums(Table& table) {
  for_each_fused_type([&]<class T>() { table.dot[kIndex<T>] = &run_sum<T, Product>; });
  table.sum_magnitudes = &sum_magnitudes;
  table.fold = &fold;
}

}  // namespace tallies::cuda
