// The families of bindings. A binding checks, unwraps, releases the GIL and calls.
#pragma once

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace tallies::bind {

void register_errors(py::module_& m);
void register_cpu(py::module_& m);
void register_kernels(py::module_& m);
void register_engine(py::module_& m);

}  // namespace tallies::bind
