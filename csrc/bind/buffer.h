// Memory of a Python object that speaks the buffer protocol, contiguous, for as long as this lives.
#pragma once

#include <cstdint>
#include <utility>

#include "bind/register.h"

namespace tallies::bind {

class Buffer {
 public:
  explicit Buffer(py::handle object, bool writable = false) {
    if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
      throw py::error_already_set();
  }
  Buffer(Buffer&& other) noexcept : view_(std::exchange(other.view_, Py_buffer{})) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (view_.obj != nullptr) PyBuffer_Release(&view_);
  }

  std::uint8_t* data() const { return static_cast<std::uint8_t*>(view_.buf); }
  std::size_t n_bytes() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

}  // namespace tallies::bind
