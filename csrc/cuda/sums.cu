// Sums in float64 with a fixed shape: eight lanes for each stretch of elements, element i in lane
// i % 8, in order. A thread owns a lane, so eight neighbours read 32 bytes together.
#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"

namespace tallies::cuda {
namespace {

struct Product {
  static TALLIES_INLINE double of(double x, double y) { return x * y; }
};
struct Magnitude {
  static TALLIES_INLINE double of(double x, double) { return __builtin_fabs(x); }
};

// b may be null.
template <class Term>
__global__ void __launch_bounds__(kThreads)
    sum(const float* a, const float* b, std::size_t n, std::size_t stretch, double* lanes) {
  const std::size_t n_lanes = (n + stretch - 1) / stretch * 8;
  const std::size_t step = std::size_t(gridDim.x) * kThreads;
  for (std::size_t at = std::size_t(blockIdx.x) * kThreads + threadIdx.x; at < n_lanes;
       at += step) {
    const std::size_t first = at / 8 * stretch, end = n - first < stretch ? n : first + stretch;
    double total = 0;
    for (std::size_t i = first + at % 8; i < end; i += 8)
      total = total + Term::of(a[i], b == nullptr ? 0.0f : b[i]);
    lanes[at] = total;
  }
}

template <class Term, std::size_t kPerStretch>
Failure run_sum(const float* a, const float* b, std::size_t n, double* lanes, Stream stream) {
  return launch_over((n + kPerStretch - 1) / kPerStretch * 8, 1, &sum<Term>, stream, a, b, n,
                     kPerStretch, lanes);
}

Failure sum_magnitudes(const float* x, std::size_t n, double* lanes, Stream stream) {
  return run_sum<Magnitude, kStretch>(x, nullptr, n, lanes, stream);
}

// One block: all threads sum lanes, and one adds the sums.
__global__ void __launch_bounds__(kThreads)
    add_stretches(const double* lanes, std::size_t n_stretches, double* out) {
  __shared__ double sums[kThreads];
  double total = *out;
  for (std::size_t first = 0; first < n_stretches; first += kThreads) {
    const std::size_t left = n_stretches - first, n = left < kThreads ? left : kThreads;
    if (threadIdx.x < n) sums[threadIdx.x] = sum_of_lanes(lanes + 8 * (first + threadIdx.x));
    __syncthreads();
    if (threadIdx.x == 0)
      for (std::size_t i = 0; i < n; ++i) total = total + sums[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = total == total ? total : __builtin_nan("");
}

Failure fold(const double* lanes, std::size_t n_stretches, double* out, Stream stream) {
  return launch(&add_stretches, 1, stream, lanes, n_stretches, out);
}

}  // namespace

void fill_sums(Table& table) {
  table.dot = &run_sum<Product, kStretch>;
  table.sum_magnitudes = &sum_magnitudes;
  table.long_dot = &run_sum<Product, kDotStretch>;
  table.fold = &fold;
}

}  // namespace tallies::cuda
