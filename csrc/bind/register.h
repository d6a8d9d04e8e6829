// The families of bindings. A binding checks, unwraps, releases the GIL and calls.
#pragma once

#include <pybind11/pybind11.h>

#include "core/float_env.h"
#include "core/rule.h"

namespace py = pybind11;

// A number of Python is rounded to float32 in the floating-point environment of the kernels: the
// arguments of a call are converted before its guards stand.
template <>
struct pybind11::detail::type_caster<float> {
  PYBIND11_TYPE_CASTER(float, const_name("float"));
  bool load(handle number, bool convert) {
    type_caster<double> wide;
    if (!wide.load(number, convert)) return false;
    const tallies::FloatEnvironment environment;
    value = static_cast<float>(static_cast<double>(wide));
    return true;
  }
  static handle cast(float x, return_value_policy, handle) {
    const tallies::FloatEnvironment environment;
    return PyFloat_FromDouble(x);
  }
};

namespace tallies::bind {

// Guards a call that touches no Python object.
using Native = py::call_guard<FloatEnvironment, py::gil_scoped_release>;

void register_errors(py::module_& m);
void register_cpu(py::module_& m);
void register_cuda(py::module_& m);
void register_kernels(py::module_& m);
void register_fields(py::module_& m);
void register_sources(py::module_& m);
void register_changes(py::module_& m);
void register_plan(py::module_& m);
void register_combine(py::module_& m);
void register_select(py::module_& m);
void register_guesses(py::module_& m);
void register_surveys(py::module_& m);
void register_store(py::module_& m);
void register_sparse(py::module_& m);
void register_patches(py::module_& m);
void register_matrices(py::module_& m);
void register_weighted(py::module_& m);

// Error if this combination is not compiled.
Rule to_rule(int gate, int vote, int blend);

}  // namespace tallies::bind
