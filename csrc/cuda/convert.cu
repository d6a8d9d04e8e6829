// Elementwise kernels that look at no mask: conversions, task vectors, magnitudes, elections.
#include "cuda/chunk.h"
#include "cuda/combine.inl.h"
#include "cuda/launch.h"
#include "kernels/elect.h"
#include "kernels/types.h"

namespace tallies::cuda {
namespace {

constexpr int kN = 8;

// out[i] = function(a[i], b[i]); b may be null and is then all zeros.
template <class In, class Out, class Function>
__global__ void __launch_bounds__(kThreads) map(const In* a, const In* b, Out* out, std::size_t n) {
  for_each_chunk<kN>(n, [&](std::size_t i, int n_here) {
    const Chunk<In, kN> x = load_chunk<In, kN>(a + i, n_here);
    Chunk<In, kN> y{};
    if (b != nullptr) y = load_chunk<In, kN>(b + i, n_here);
    Chunk<Out, kN> result;
    for (int j = 0; j < kN; ++j) result.v[j] = Function::of(x.v[j], y.v[j]);
    store_chunk(out + i, result, n_here);
  });
}

template <class Function, class In, class Out>
Failure run(const void* a, const void* b, void* out, std::size_t n, Stream stream) {
  return launch_over(n, kN, &map<In, Out, Function>, stream, static_cast<const In*>(a),
                     static_cast<const In*>(b), static_cast<Out*>(out), n);
}

template <class T>
struct Widen {
  static TALLIES_INLINE float of(typename T::Word x, typename T::Word) { return T::in_order(&x); }
};
template <class T>
struct Narrow {
  static TALLIES_INLINE typename T::Word of(float x, float) {
    typename T::Word word;
    T::store_in_order(&word, canonical(x));
    return word;
  }
};
template <class T>
struct WidenEach {
  static TALLIES_INLINE float of(typename T::Word x, typename T::Word) { return T::widen(x); }
};
template <class T>
struct NarrowEach {
  static TALLIES_INLINE typename T::Word of(float x, float) { return T::narrow(x); }
};
struct Subtract {
  static TALLIES_INLINE float of(float x, float base) { return x - base; }
};
template <class T>
struct Magnitude {
  static TALLIES_INLINE std::uint32_t of(typename T::Word x, typename T::Word base) {
    const F32s delta = T::in_order(&x) - T::in_order(&base);
    return static_cast<std::uint32_t>(rank_of(magnitude(delta)));
  }
};

template <class Function, class In>
Failure widen(const void* in, float* out, std::size_t n, Stream stream) {
  return run<Function, In, float>(in, nullptr, out, n, stream);
}
template <class Function, class Out>
Failure narrow(const float* in, void* out, std::size_t n, Stream stream) {
  return run<Function, float, Out>(in, nullptr, out, n, stream);
}
Failure subtract(const float* x, const float* base, float* out, std::size_t n, Stream stream) {
  return run<Subtract, float, float>(x, base, out, n, stream);
}
template <class T>
Failure magnitudes(const void* base, const void* expert, std::size_t n, std::uint32_t* out,
                   Stream stream) {
  return run<Magnitude<T>, typename T::Word, std::uint32_t>(expert, base, out, n, stream);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    keep_large(const typename T::Word* x, std::int32_t floor, const std::int32_t* device_floor,
               const CutOff* cut_off, typename T::Word* out, std::size_t n) {
  using Word = typename T::Word;
  if (device_floor != nullptr) floor = *device_floor;
  const std::size_t cut = device_floor == nullptr || cut_off == nullptr ? n : cut_off->count;
  for_each_chunk<kN>(n, [&](std::size_t i, int n_here) {
    Chunk<Word, kN> words = load_chunk<Word, kN>(x + i, n_here);
    for (int j = 0; j < kN; ++j) {
      const float value = T::in_order(words.v + j);
      const bool passes = magnitude(value) > (i + unsigned(j) < cut ? floor : raised(floor));
      T::store_in_order(words.v + j, passes ? canonical(value) : 0.0f);
    }
    store_chunk(out + i, words, n_here);
  });
}

template <class T>
Failure trim(const void* x, std::int32_t floor, const std::int32_t* device_floor,
             const CutOff* cut_off, void* out, std::size_t n, Stream stream) {
  using Word = typename T::Word;
  return launch_over(n, kN, &keep_large<T>, stream, static_cast<const Word*>(x), floor,
                     device_floor, cut_off, static_cast<Word*>(out), n);
}

struct ElectArgs {
  const void* deltas[kMaxExperts];
  float weights[kMaxExperts];
  int n_experts, zero_sign;
  std::int8_t* out;
  std::size_t n;
  const CombineTally* again;
};

template <class T, Vote kVote>
__global__ void __launch_bounds__(kThreads)
    elect(const __grid_constant__ ElectArgs args, CombineTally* tally) {
  if (args.again != nullptr && args.again->sign_sum <= 0) return;
  LaneTally lanes;
  for_each_chunk<kN>(args.n, [&](std::size_t i, int n) {
    Election<kVote> elections[kN];
    for (int e = 0; e < args.n_experts; ++e) {
      float x[kN];
      load_floats<T>(x, args.deltas[e], i, n);
      for (int j = 0; j < kN; ++j) elections[j].step(x[j], args.weights[e]);
    }
    Chunk<std::int8_t, kN> signs;
    for (int j = 0; j < kN; ++j) signs.v[j] = to_bytes(elections[j].finish(args.zero_sign, lanes));
    store_chunk(args.out + i, signs, n);
  });
  add_tally(tally, lanes, kInfinityBits);
}

template <class T, Vote kVote>
Failure elect_signs(const void* const* deltas, const float* weights, int n_experts, int zero_sign,
                    std::int8_t* out, std::size_t n, const CombineTally* again, CombineTally* tally,
                    Stream stream) {
  ElectArgs args{};
  for (int e = 0; e < n_experts; ++e) {
    args.deltas[e] = deltas[e];
    args.weights[e] = weights[e];
  }
  args.n_experts = n_experts;
  args.zero_sign = zero_sign;
  args.out = out;
  args.n = n;
  args.again = again;
  return launch_over(n, kN, &elect<T, kVote>, stream, args, tally);
}

}  // namespace

void fill_convert(Table& table) {
  for_each_fused_type([&]<class T>() {
    constexpr int i = kIndex<T>;
    table.widen[i] = &widen<Widen<T>, typename T::Word>;
    table.narrow[i] = &narrow<Narrow<T>, typename T::Word>;
    table.magnitudes[i] = &magnitudes<T>;
    table.trim[i] = &trim<T>;
    table.elect_signs[i][0] = &elect_signs<T, Vote::sum>;
    table.elect_signs[i][1] = &elect_signs<T, Vote::count>;
  });
  for_each_scalar_type([&]<class T>() {
    table.widen[kIndex<T>] = &widen<WidenEach<T>, typename T::Word>;
    table.narrow[kIndex<T>] = &narrow<NarrowEach<T>, typename T::Word>;
  });
  table.subtract = &subtract;
}

}  // namespace tallies::cuda
