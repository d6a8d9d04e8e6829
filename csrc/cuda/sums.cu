// Sums in float64 with a fixed shape: eight lanes for each stretch of kStretch elements, element i
// in lane i % 8, in order. A thread owns a lane, so eight neighbours read 32 bytes together.
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
    sum(const float* a, const float* b, std::size_t n, double* lanes) {
  const std::size_t n_lanes = (n + kStretch - 1) / kStretch * 8;
  const std::size_t step = std::size_t(gridDim.x) * kThreads;
  for (std::size_t at = std::size_t(blockIdx.x) * kThreads + threadIdx.x; at < n_lanes;
       at += step) {
    const std::size_t first = at / 8 * kStretch, end = n - first < kStretch ? n : first + kStretch;
    double total = 0;
    for (std::size_t i = first + at % 8; i < end; i += 8)
      total = total + Term::of(a[i], b == nullptr ? 0.0f : b[i]);
    lanes[at] = total;
  }
}

Failure dot(const float* a, const float* b, std::size_t n, double* lanes, Stream stream) {
  return launch_over((n + kStretch - 1) / kStretch * 8, 1, &sum<Product>, stream, a, b, n, lanes);
}

Failure sum_magnitudes(const float* x, std::size_t n, double* lanes, Stream stream) {
  const float* const none = nullptr;
  return launch_over((n + kStretch - 1) / kStretch * 8, 1, &sum<Magnitude>, stream, x, none, n,
                     lanes);
}

}  // namespace

void fill_sums(Table& table) {
  table.dot = &dot;
  table.sum_magnitudes = &sum_magnitudes;
}

}  // namespace tallies::cuda
