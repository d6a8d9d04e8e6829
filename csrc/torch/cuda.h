// The kernels of a CUDA device, as the operators call them: queued on torch's current stream, with
// workspaces of torch's own. No call waits for the device, so what the next kernel must know of the
// one before stays in device memory.
#pragma once

#include "core/array.h"
#include "cuda/ops.h"
#include "engine/low_rank.h"
#include "torch/changes.h"

namespace tallies::torch {

struct Cuda {
  static constexpr const char* kName = "one CUDA device";
  static std::int32_t type() { return aoti_torch_device_type_cuda(); }

  // The device of a tensor is the current one as long as this lives, and so are the workspaces.
  class Stream {
   public:
    // Throws Error (request) if the kernels or the device cannot be used.
    explicit Stream(const Tensor& like);
    const cuda::Table& table() const { return table_; }
    cuda::Stream queue() const { return queue_; }
    // Device memory for so many, not initialised.
    template <class T>
    T* room(std::size_t n = 1) {
      return static_cast<T*>(allocate(n * sizeof(T)));
    }
    template <class T>
    T* cleared() {
      T* const zeroed = room<T>();
      check(table_.clear(zeroed, sizeof(T), queue_));
      return zeroed;
    }
    // Throws what the device says.
    static void check(cuda::Failure);

   private:
    struct Guard {
      CUDAGuardHandle handle = nullptr;
      Guard() = default;
      Guard(const Guard&) = delete;
      ~Guard();
    };
    void* allocate(std::size_t n_bytes);

    const cuda::Table& table_;
    const Tensor& like_;
    cuda::Stream queue_ = nullptr;
    Guard guard_;
    std::vector<Tensor> rooms_;
  };

  using Bytes = std::uint8_t*;
  using ConstBytes = const std::uint8_t*;
  using Views = std::vector<View>;
  using Weights = std::vector<float>;

  static void kth_magnitude(Stream&, View x, std::size_t n, std::size_t rank, float* out);
  // Counts would have to wait for the device.
  static constexpr bool kCounts = false;
  static void trim(Stream&, const ArrayMerge&);
  static void merge(Stream&, const ArrayMerge&, int n_threads);
  static void magnitude_mask(Stream&, View x, std::size_t n, std::int32_t floor, Bytes out);
  static void tall_mask(Stream&, View x, View merged, std::size_t n, float lambda, Bytes out);
  static void consensus_mask(Stream&, const std::vector<ConstBytes>& masks, int at_least,
                             std::size_t n, Bytes out);
  static void pack_bits(Stream&, ConstBytes mask, std::size_t n, Bytes out);
  static void unpack_bits(Stream&, ConstBytes packed, std::size_t n, Bytes out);
  static void change_elements(Stream&, ElementChanges&);
  static void apply_mask(Stream&, View base, View shared, ConstBytes mask, float scale,
                         std::size_t n, void* out);
  static void elect_signs(Stream&, const Views& deltas, const Weights&, bool by_count,
                          int zero_sign, bool majority, std::size_t n, std::int8_t* out);
  static void disjoint_merge(Stream&, const Views& deltas, const Weights&, const std::int8_t* signs,
                             Blend, std::size_t n, void* out);
  static void low_rank(Stream&, const LowRankSum&);
  static void gram(Stream&, const Views& deltas, std::size_t n, double* out);
  static void block_dots(Stream&, View grad, const Views& deltas, std::size_t n, double* out);
};

}  // namespace tallies::torch
