// Packed masks: a thread makes or reads a byte, which is a chunk of eight elements.
#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"
#include "kernels/membership.h"
#include "kernels/types.h"

namespace tallies::cuda {
namespace {

constexpr int kN = 8;

// AboveFloor, its floor perhaps in device memory.
struct AboveFloorThere {
  std::int32_t floor;
  const std::int32_t* there;
  __device__ Mask operator()(float x, float) const {
    return AboveFloor{there == nullptr ? floor : *there}(x);
  }
};
struct SignOfFirst {
  __device__ Mask operator()(float x, float) const { return NotNegative{}(x); }
};

// Packs test(a[i], b[i]); b may be null.
template <class T, class Test>
__global__ void __launch_bounds__(kThreads)
    pack(Test test, const void* a, const void* b, std::uint8_t* out, std::size_t n_elements) {
  for_each_chunk<kN>(n_elements, [&](std::size_t i, int n) {
    float x[kN], y[kN] = {};
    load_floats<T>(x, a, i, n);
    if (b != nullptr) load_floats<T>(y, b, i, n);
    std::uint32_t byte = 0;
    for (int j = 0; j < kN; ++j) byte |= bits(both(j < n, test(x[j], y[j]))) << j;
    out[i / kN] = static_cast<std::uint8_t>(byte);
  });
}

template <class T, class Test>
Failure run_pack(Test test, const void* a, const void* b, std::uint8_t* out, std::size_t n,
                 Stream stream) {
  return launch_over(n, kN, &pack<T, Test>, stream, test, a, b, out, n);
}

template <class T>
Failure magnitude_mask(const void* x, std::int32_t floor, const std::int32_t* device_floor,
                       std::uint8_t* out, std::size_t n, Stream stream) {
  return run_pack<T>(AboveFloorThere{floor, device_floor}, x, nullptr, out, n, stream);
}
template <class T>
Failure tall_mask(const void* delta, const void* merged, float lambda, std::uint8_t* out,
                  std::size_t n, Stream stream) {
  return run_pack<T>(Tall{lambda}, delta, merged, out, n, stream);
}
Failure same_sign_mask(const float* x, const float* u, std::uint8_t* out, std::size_t n,
                       Stream stream) {
  return run_pack<Float32>(SameSign{}, x, u, out, n, stream);
}
Failure sign_mask(const float* x, std::uint8_t* out, std::size_t n, Stream stream) {
  return run_pack<Float32>(SignOfFirst{}, x, nullptr, out, n, stream);
}

__global__ void __launch_bounds__(kThreads)
    pack_bytes(const std::uint8_t* in, std::uint8_t* out, std::size_t n_elements) {
  for_each_chunk<kN>(n_elements, [&](std::size_t i, int n) {
    const Chunk<std::uint8_t, kN> bytes = load_chunk<std::uint8_t, kN>(in + i, n);
    std::uint32_t byte = 0;
    for (int j = 0; j < kN; ++j) byte |= std::uint32_t(bytes.v[j] != 0) << j;
    out[i / kN] = static_cast<std::uint8_t>(byte);
  });
}

__global__ void __launch_bounds__(kThreads)
    unpack_bytes(const std::uint8_t* in, std::uint8_t* out, std::size_t n_elements) {
  for_each_chunk<kN>(n_elements, [&](std::size_t i, int n) {
    const std::uint32_t byte = in[i / kN];
    Chunk<std::uint8_t, kN> bytes;
    for (int j = 0; j < kN; ++j) bytes.v[j] = static_cast<std::uint8_t>(byte >> j & 1);
    store_chunk(out + i, bytes, n);
  });
}

Failure pack_bits(const std::uint8_t* in, std::uint8_t* out, std::size_t n, Stream stream) {
  return launch_over(n, kN, &pack_bytes, stream, in, out, n);
}
Failure unpack_bits(const std::uint8_t* in, std::uint8_t* out, std::size_t n, Stream stream) {
  return launch_over(n, kN, &unpack_bytes, stream, in, out, n);
}

struct MaskRows {
  const std::uint8_t* rows[kMaxExperts];
};

// Eight bytes of each mask.
struct MaskBytes {
  const MaskRows& masks;
  std::size_t i;
  int n;
  TALLIES_INLINE std::uint64_t operator()(int row) const {
    return load<std::uint64_t>(load_chunk<std::uint8_t, 8>(masks.rows[row] + i, n).v);
  }
};

__global__ void __launch_bounds__(kThreads)
    claim(const __grid_constant__ MaskRows masks, Claimed<std::uint64_t> claimed, std::uint8_t* out,
          std::size_t n_elements) {
  const std::size_t n_bytes = (n_elements + 7) / 8;
  for_each_chunk<8>(n_bytes, [&](std::size_t i, int n) {
    std::uint64_t word = claimed(MaskBytes{masks, i, n});
    const std::size_t left = n_elements - 8 * i;
    if (left < 64) word &= (std::uint64_t(1) << left) - 1;
    Chunk<std::uint8_t, 8> bytes;
    store(bytes.v, word);
    store_chunk(out + i, bytes, n);
  });
}

Failure consensus_mask(const std::uint8_t* const* masks, int n_masks, int at_least,
                       std::uint8_t* out, std::size_t n, Stream stream) {
  MaskRows rows{};
  for (int row = 0; row < n_masks; ++row) rows.rows[row] = masks[row];
  return launch_over((n + 7) / 8, 8, &claim, stream, rows,
                     Claimed<std::uint64_t>(n_masks, at_least), out, n);
}

// out = element(in the mask, base, shared); shared may be null.
template <class T, class Rebuild>
__global__ void __launch_bounds__(kThreads)
    rebuild(Rebuild element, const typename T::Word* base, const typename T::Word* shared,
            const std::uint8_t* mask, typename T::Word* out, std::size_t n_elements,
            std::int32_t* largest) {
  using Word = typename T::Word;
  const LaneBits<T> lanes;
  std::int32_t most = 0;
  for_each_chunk<kN>(n_elements, [&](std::size_t i, int n) {
    const Chunk<Word, kN> b = load_chunk<Word, kN>(base + i, n);
    Chunk<Word, kN> s{}, result;
    if (shared != nullptr) s = load_chunk<Word, kN>(shared + i, n);
    const std::uint32_t byte = mask[i / kN];
    for (int at = 0; at < kN; at += kPair) {
      Pair x = T::load2(b.v + at);
      const Pair y = T::load2(s.v + at);
      for (int h = 0; h < 2; ++h) {
        x.v[h] = element(lanes.of(byte >> at, std::size_t(h)), x.v[h], y.v[h]);
        if (at + h < n) most = larger(most, magnitude(x.v[h]));
      }
      T::store2(result.v + at, x);
    }
    store_chunk(out + i, result, n);
  });
  add_largest(largest, most);
}

template <class T, class Rebuild>
Failure run_rebuild(Rebuild element, const void* base, const void* shared, const std::uint8_t* mask,
                    void* out, std::size_t n, std::int32_t* largest, Stream stream) {
  using Word = typename T::Word;
  return launch_over(n, kN, &rebuild<T, Rebuild>, stream, element, static_cast<const Word*>(base),
                     static_cast<const Word*>(shared), mask, static_cast<Word*>(out), n, largest);
}

template <class T>
Failure apply_mask(const void* base, const void* shared, const std::uint8_t* mask, float scale,
                   void* out, std::size_t n, std::int32_t* largest, Stream stream) {
  return run_rebuild<T>(Masked{scale}, base, shared, mask, out, n, largest, stream);
}
template <class T>
Failure apply_signs(const void* base, const std::uint8_t* mask, float size, void* out,
                    std::size_t n, std::int32_t* largest, Stream stream) {
  return run_rebuild<T>(Signed{size}, base, nullptr, mask, out, n, largest, stream);
}

}  // namespace

void fill_masks(Table& table) {
  for_each_fused_type([&]<class T>() {
    constexpr int i = kIndex<T>;
    table.magnitude_mask[i] = &magnitude_mask<T>;
    table.tall_mask[i] = &tall_mask<T>;
    table.apply_mask[i] = &apply_mask<T>;
    table.apply_signs[i] = &apply_signs<T>;
  });
  table.consensus_mask = &consensus_mask;
  table.same_sign_mask = &same_sign_mask;
  table.sign_mask = &sign_mask;
  table.pack_bits = &pack_bits;
  table.unpack_bits = &unpack_bits;
}

}  // namespace tallies::cuda
