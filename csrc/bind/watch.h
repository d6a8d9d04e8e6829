#pragma once

#include <memory>
#include <utility>

#include "bind/register.h"
#include "core/float_env.h"
#include "stream/stream.h"

namespace tallies::bind {

// Lets Python handle signals and show progress; an exception there stops the run and comes out
// of the call.
class Watch {
 public:
  explicit Watch(py::object report) : report_(std::move(report)) {}

  // Runs a pass without the GIL, in the floating-point environment of the kernels; Python runs in
  // that of the caller.
  template <class Pass>
  auto run(const Pass& pass) {
    auto result = [&] {
      const FloatEnvironment environment;
      const py::gil_scoped_release release;
      return pass([&](std::uint64_t n_bytes) {
        const FloatEnvironment::OfCaller callers(environment);
        return report(n_bytes);
      });
    }();
    if (error_) throw py::error_already_set(std::move(*error_));
    return result;
  }

 private:
  bool report(std::uint64_t n_bytes) {
    const py::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!report_.is_none() && n_bytes > 0) report_(n_bytes);
      return true;
    } catch (py::error_already_set& error) {
      error_ = std::make_unique<py::error_already_set>(std::move(error));
      return false;
    }
  }

  py::object report_;
  std::unique_ptr<py::error_already_set> error_;
};

}  // namespace tallies::bind
