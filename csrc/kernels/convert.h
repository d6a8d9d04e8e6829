// Whole arrays to and from float32, for the types and mixtures that the fused kernels do not read;
// and task vectors made of them. Reference: tests/reference/dtype.py, task_arithmetic.py.
#pragma once

#include "kernels/blocks.h"
#include "kernels/types.h"

namespace tallies {
namespace {

template <class T>
void widen(const void* in, float* out, std::size_t n_elements) {
  using Word = typename T::Word;
  const Word* input = static_cast<const Word*>(in);
  map_blocks<kLanes>(
      &input, 1, out, n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, float* to) {
        store(to, T::in_order(rows[0] + first));
      });
}

// out = x - base; of float32 out may be x.
template <class T>
void subtract(const void* x, const void* base, float* out, std::size_t n_elements) {
  using Word = typename T::Word;
  const Word* inputs[2] = {static_cast<const Word*>(x), static_cast<const Word*>(base)};
  map_blocks<kLanes>(
      inputs, 2, out, n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, float* to) {
        store(to, T::in_order(rows[0] + first) - T::in_order(rows[1] + first));
      });
}

template <class T>
void narrow(const float* in, void* out, std::size_t n_elements) {
  using Word = typename T::Word;
  map_blocks<kPair>(
      &in, 1, static_cast<Word*>(out), n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, Word* to) {
        const float* p = rows[0] + first;
        Pair x;
        if constexpr (T::kInterleaved) {
          for (int lane = 0; lane < kLanes; ++lane) {
            set_lane(x.v[0], lane, p[2 * lane]);
            set_lane(x.v[1], lane, p[2 * lane + 1]);
          }
        } else {
          x = Float32::load2(p);
        }
        T::store2(to, x);
      });
}

template <class T>
void widen_each(const void* in, float* out, std::size_t n_elements) {
  const auto* words = static_cast<const typename T::Word*>(in);
  for (std::size_t i = 0; i < n_elements; ++i) out[i] = T::widen(words[i]);
}

template <class T>
void narrow_each(const float* in, void* out, std::size_t n_elements) {
  auto* words = static_cast<typename T::Word*>(out);
  for (std::size_t i = 0; i < n_elements; ++i) words[i] = T::narrow(in[i]);
}

}  // namespace
}  // namespace tallies
