#include <pybind11/stl.h>

#include <optional>

#include "bind/register.h"
#include "core/error.h"
#include "cpu/ops.h"

namespace tallies::bind {
namespace {

// The floating-point environment of the kernels for a `with` block of Python.
struct EnvironmentScope {
  std::optional<FloatEnvironment> environment;
};

}  // namespace

void register_errors(py::module_& m) {
  m.attr("_errors") = py::module_::import("tallies.errors");
  // NOLINTNEXTLINE(performance-unnecessary-value-param): pybind11 says how the function is called.
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& error) {
      const py::module_ errors = py::module_::import("tallies.errors");
      const char* name = error.kind == Error::Kind::request ? "InputError" : "StorageError";
      py::set_error(errors.attr(name), error.what());
    }
  });
}

void register_cpu(py::module_& m) {
  m.def("targets", [] {
    std::vector<std::string> names;
    for (const KernelTable* table : targets()) names.emplace_back(table->target);
    return names;
  });
  m.def("target", [] { return std::string(kernels().target); });
  m.def("set_target", &set_target, py::arg("name"));
  // Name and bytes of each element type, in the order of its numbers.
  m.def("dtypes", [] {
#define TALLIES_NAME(name, n_bytes, ...) {#name, n_bytes},
    return std::vector<std::pair<std::string, std::size_t>>{TALLIES_DTYPES(TALLIES_NAME)};
#undef TALLIES_NAME
  });
  py::class_<EnvironmentScope>(m, "FloatEnvironment")
      .def(py::init<>())
      .def("__enter__", [](EnvironmentScope& scope) { scope.environment.emplace(); })
      .def("__exit__", [](EnvironmentScope& scope, const py::args&) { scope.environment.reset(); });
}

}  // namespace tallies::bind
