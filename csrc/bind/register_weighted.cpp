#include <pybind11/stl.h>

#include "bind/arrays.h"
#include "bind/check.h"
#include "bind/sources.h"
#include "bind/watch.h"
#include "engine/restore.h"
#include "engine/weighted.h"

namespace tallies::bind {

namespace {

void check(const std::vector<const Operand*>& deltas, std::uint64_t n, std::uint64_t n_blocks,
           int threads) {
  for (const Operand* delta : deltas) {
    if (delta == nullptr) throw py::value_error("found None, expected a Source");
    require_elements(*delta, n);
    check_in_memory(*delta);
  }
  if (n_blocks > ~std::uint64_t(0) / std::max<std::uint64_t>(n, 1))
    refuse("n_blocks", std::to_string(n_blocks), "no more blocks than numbers of 64 bits count");
  if (n_blocks == 0 || threads < 1)
    throw py::value_error("found " + std::to_string(n_blocks) + " blocks and " +
                          std::to_string(threads) + " threads, expected 1 of each or more");
}

}  // namespace

void register_weighted(py::module_& m) {
  m.def(
      "weighted_sum",
      [](const std::vector<const Operand*>& deltas, std::uint64_t n, std::uint64_t n_blocks,
         int threads, Address base, int dtype, Address factors, Address out) {
        check(deltas, n, n_blocks, threads);
        const FloatEnvironment environment;
        const py::gil_scoped_release release;
        weighted_sum({deltas, n, n_blocks, threads}, at<const void>(base), to_dtype(dtype),
                     at<const float>(factors), at<void>(out));
      },
      py::arg("deltas"), py::arg("n_elements"), py::arg("n_blocks"), py::arg("threads"),
      py::arg("base"), py::arg("dtype"), py::arg("factors"), py::arg("out"));
  m.def(
      "block_dots",
      [](const std::vector<const Operand*>& deltas, std::uint64_t n, std::uint64_t n_blocks,
         int threads, Address grad, int dtype, Address out) {
        check(deltas, n, n_blocks, threads);
        const FloatEnvironment environment;
        const py::gil_scoped_release release;
        block_dots({deltas, n, n_blocks, threads}, at<const void>(grad), to_dtype(dtype),
                   at<double>(out));
      },
      py::arg("deltas"), py::arg("n_elements"), py::arg("n_blocks"), py::arg("threads"),
      py::arg("grad"), py::arg("dtype"), py::arg("out"));
}

}  // namespace tallies::bind
