// Registering the operators of a device with torch, once. A failure is a message, not an abort.
#pragma once

#include "torch/operators.h"

namespace tallies::torch {

class Library {
 public:
  // Operators are defined here for all devices.
  static Library definitions(const char* ns) {
    Library library;
    call(aoti_torch_library_init_fragment(ns, __FILE__, __LINE__, &library.handle_));
    return library;
  }
  // Kernels for one dispatch key.
  static Library kernels(const char* ns, const char* key) {
    Library library;
    call(aoti_torch_library_init_impl(ns, key, __FILE__, __LINE__, &library.handle_));
    return library;
  }
  Library(Library&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  ~Library() {
    if (handle_ != nullptr) aoti_torch_delete_library_object(handle_);
  }

  void define(const Operator& one) { call(aoti_torch_library_def(handle_, one.schema)); }
  void implement(const Operator& one) {
    call(torch_library_impl(handle_, one.name, one.boxed, kBuiltFor));
  }
  // Registrations last as long as the library.
  void keep() { handle_ = nullptr; }

 private:
  Library() = default;
  TorchLibraryHandle handle_ = nullptr;
};

// Returns the reason of a failure, null for none. The device whose library comes first defines the
// operators.
template <class Device>
const char* register_operators(const char* key, bool define, const char* ns = "tallies") noexcept {
  static std::string message;
  try {
    Library kernels = Library::kernels(ns, key);
    if (define) {
      Library definitions = Library::definitions(ns);
      for (const Operator& one : operators<Device>()) definitions.define(one);
      for (const Operator& one : operators<Device>()) kernels.implement(one);
      definitions.keep();
    } else {
      for (const Operator& one : operators<Device>()) kernels.implement(one);
    }
    kernels.keep();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace tallies::torch
