// The families of bindings. A binding checks, unwraps, releases the GIL and calls.
#pragma once

#include <pybind11/pybind11.h>

#include "core/rule.h"

namespace py = pybind11;

namespace tallies::bind {

void register_errors(py::module_& m);
void register_cpu(py::module_& m);
void register_cuda(py::module_& m);
void register_kernels(py::module_& m);
void register_sources(py::module_& m);
void register_plan(py::module_& m);
void register_combine(py::module_& m);
void register_select(py::module_& m);
void register_surveys(py::module_& m);
void register_store(py::module_& m);
void register_sparse(py::module_& m);
void register_matrices(py::module_& m);
void register_weighted(py::module_& m);

// Error if this combination is not compiled.
Rule to_rule(int gate, int vote, int blend);

}  // namespace tallies::bind
