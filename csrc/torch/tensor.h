// Tensors as owned handles, and calls of torch that throw.
#pragma once

#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "torch/abi.h"

namespace tallies::torch {

inline void call(AOTITorchError status) {
  if (status != 0) throw std::runtime_error("a call of torch failed; its message is on stderr");
}

class Tensor {
 public:
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  std::int32_t dtype() const { return get<std::int32_t>(aoti_torch_get_dtype); }
  std::int32_t device_type() const { return get<std::int32_t>(aoti_torch_get_device_type); }
  std::int32_t device_index() const { return get<std::int32_t>(aoti_torch_get_device_index); }
  std::int32_t layout() const { return get<std::int32_t>(aoti_torch_get_layout); }
  bool is_contiguous() const { return get<bool>(aoti_torch_is_contiguous); }
  std::size_t n() const {
    return static_cast<std::size_t>(get<std::int64_t>(aoti_torch_get_numel));
  }
  std::span<const std::int64_t> sizes() const {
    return {get<std::int64_t*>(aoti_torch_get_sizes),
            static_cast<std::size_t>(get<std::int64_t>(aoti_torch_get_dim))};
  }
  const void* data() const { return get<const void*>(torch_get_const_data_ptr); }
  void* mutable_data() { return get<void*>(torch_get_mutable_data_ptr); }

  AtenTensorHandle handle() const { return handle_; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

 private:
  template <class T>
  T get(AOTITorchError (*getter)(AtenTensorHandle, T*)) const {
    T value{};
    call(getter(handle_, &value));
    return value;
  }

  AtenTensorHandle handle_;
};

// A new row-major tensor on the device of another.
inline Tensor empty(std::span<const std::int64_t> sizes, std::int32_t dtype, const Tensor& like) {
  std::int64_t few[8];  // dimensions, as nearly all tensors have, without an allocation
  std::vector<std::int64_t> many(sizes.size() > std::size(few) ? sizes.size() : 0);
  std::int64_t* const strides = many.empty() ? few : many.data();
  std::int64_t stride = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= sizes[i] > 1 ? sizes[i] : 1;
  }
  AtenTensorHandle handle = nullptr;
  call(aoti_torch_empty_strided(static_cast<std::int64_t>(sizes.size()), sizes.data(), strides,
                                dtype, like.device_type(), like.device_index(), &handle));
  return Tensor(handle);
}

inline Tensor empty_like(const Tensor& like) { return empty(like.sizes(), like.dtype(), like); }

// The same elements in row-major order and aligned for their size; a copy where they were not.
inline Tensor laid_out(Tensor x, std::size_t element_bytes) {
  if (x.is_contiguous() && reinterpret_cast<std::uintptr_t>(x.data()) % element_bytes == 0)
    return x;
  Tensor copy = empty_like(x);
  call(aoti_torch_copy_(copy.handle(), x.handle(), 0));
  return copy;
}

}  // namespace tallies::torch
