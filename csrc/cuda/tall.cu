// The sum of the task vectors and the masks of where it stands for each of them.
#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"
#include "kernels/membership.h"
#include "kernels/types.h"

namespace tallies::cuda {
namespace {

constexpr int kN = 8;

// TallArgs with what they point to in the host's memory, as the parameter of a kernel.
struct TallParams {
  const void* base;
  const void* experts[kMaxExperts];
  int n_experts;
  float lambdas[kMaxTallMasks];
  int n_lambdas;
  void* shared;
  std::uint8_t* masks[kMaxTallMasks];
  std::size_t n;
};

// The experts are read twice, the second time from a cache.
template <class T>
__global__ void __launch_bounds__(kThreads)
    tall(const __grid_constant__ TallParams args, std::int32_t* largest) {
  using Word = typename T::Word;
  std::int32_t most = 0;
  for_each_chunk<kN>(args.n, [&](std::size_t i, int n) {
    float base[kN], x[kN], sum[kN] = {};
    load_floats<T>(base, args.base, i, n);
    for (int e = 0; e < args.n_experts; ++e) {
      load_floats<T>(x, args.experts[e], i, n);
      for (int j = 0; j < kN; ++j) sum[j] = sum[j] + (x[j] - base[j]);
    }
    Chunk<Word, kN> shared;
    for (int j = 0; j < kN; ++j) {
      most = larger(most, magnitude(sum[j]));
      T::store_in_order(shared.v + j, canonical(sum[j]));
    }
    store_chunk(static_cast<Word*>(args.shared) + i, shared, n);
    for (int e = 0; e < args.n_experts; ++e) {
      float rest[kN];
      load_floats<T>(x, args.experts[e], i, n);
      for (int j = 0; j < kN; ++j) {
        x[j] = x[j] - base[j];
        rest[j] = Tall::rest(x[j], sum[j]);
      }
      for (int k = e * args.n_lambdas; k < (e + 1) * args.n_lambdas; ++k) {
        const Tall test{args.lambdas[k]};
        std::uint32_t byte = 0;
        for (int j = 0; j < kN; ++j) byte |= bits(both(j < n, test.beside(x[j], rest[j]))) << j;
        args.masks[k][i / kN] = static_cast<std::uint8_t>(byte);
      }
    }
  });
  add_largest(largest, most);
}

template <class T>
Failure run_tall(const TallArgs& args, std::int32_t* largest, Stream stream) {
  const int n_masks = args.n_experts * args.n_lambdas;
  if (n_masks > kMaxTallMasks) return "at most 1024 masks in one call";
  TallParams params{};
  params.base = args.base;
  for (int e = 0; e < args.n_experts; ++e) params.experts[e] = args.experts[e];
  params.n_experts = args.n_experts;
  for (int k = 0; k < n_masks; ++k) {
    params.lambdas[k] = args.lambdas[k];
    params.masks[k] = args.masks[k];
  }
  params.n_lambdas = args.n_lambdas;
  params.shared = args.shared;
  params.n = args.n;
  return launch_over(args.n, kN, &tall<T>, stream, params, largest);
}

}  // namespace

void fill_tall(Table& table) {
  for_each_fused_type([&]<class T>() { table.tall[kIndex<T>] = &run_tall<T>; });
}

}  // namespace tallies::cuda
