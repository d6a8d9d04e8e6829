// The one exception of the native code. Kernels never throw.
#pragma once

#include <stdexcept>
#include <string>

namespace tallies {

struct Error : std::runtime_error {
  enum class Kind { request, storage };  // exit status 2 and 3 of the command line
  Kind kind;
  Error(Kind k, const std::string& text) : std::runtime_error(text), kind(k) {}
};

}  // namespace tallies
