#include <pybind11/pybind11.h>

#include "bind/register.h"
#include "core/error.h"

PYBIND11_MODULE(_main_interpreter, m, py::mod_gil_not_used()) {
  m.doc() = "Native kernels and the streaming engine; see tallies.kernels and tallies.merge.";
  m.attr("version") = TALLIES_VERSION;
  tallies::bind::register_errors(m);
  tallies::bind::register_cpu(m);
  tallies::bind::register_cuda(m);
  tallies::bind::register_kernels(m);
  tallies::bind::register_fields(m);
  tallies::bind::register_sources(m);
  tallies::bind::register_changes(m);
  tallies::bind::register_plan(m);
  tallies::bind::register_cancelled(m);
  tallies::bind::register_combine(m);
  tallies::bind::register_select(m);
  tallies::bind::register_guesses(m);
  tallies::bind::register_surveys(m);
  tallies::bind::register_store(m);
  tallies::bind::register_sparse(m);
  tallies::bind::register_patches(m);
  tallies::bind::register_matrices(m);
  tallies::bind::register_weighted(m);
}

// In a subinterpreter pybind11 would wait for the GIL, which its own thread holds, before
// Python 3.12.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return PyInit__main_interpreter();
  PyErr_SetString(
      PyExc_ImportError,
      "tallies._core does not load in a subinterpreter; use the main one, or a process");
  return nullptr;
}
