#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/buffer.h"
#include "bind/check.h"
#include "cpu/ops.h"

namespace tallies::bind {
namespace {

// The number of an element's size in the tables of kernels.
std::size_t size_index(std::size_t unit) {
  if (unit > 8 || !std::has_single_bit(unit)) refuse("unit", std::to_string(unit), "1, 2, 4 or 8");
  return static_cast<std::size_t>(std::countr_zero(unit));
}

std::optional<Buffer> base_of(const py::object& base, std::size_t n_bytes) {
  if (base.is_none()) return {};
  std::optional<Buffer> found(std::in_place, base);
  check_length("bytes of base", found->n_bytes(), n_bytes, "as many as of the elements");
  return found;
}

void split_fields(const py::object& values, const py::object& base, std::size_t unit, int fields,
                  const py::object& out) {
  const std::size_t index = size_index(unit);
  const Buffer from(values), to(out, true);
  const std::optional<Buffer> other = base_of(base, from.n_bytes());
  const std::size_t n = from.n_bytes() / unit;
  check_length("bytes of values", from.n_bytes(), n * unit, "a multiple of the unit");
  check_length("bytes of out", to.n_bytes(), n * unit, "as many as of the values");
  std::vector<std::uint8_t*> planes;
  planes.reserve(unit);
  for (std::size_t plane = 0; plane < unit; ++plane) planes.push_back(to.data() + plane * n);
  const SplitArgs args{from.data(), other ? other->data() : nullptr,
                       to_enum<Fields>("fields", fields, kFields), planes.data(), n};
  const FloatEnvironment environment;
  const py::gil_scoped_release release;
  kernels().split_fields[index](args);
}

void join_fields(const std::vector<py::object>& planes, const py::object& base, std::size_t unit,
                 int fields, const py::object& out) {
  const std::size_t index = size_index(unit);
  const Buffer to(out, true);
  const std::optional<Buffer> other = base_of(base, to.n_bytes());
  check_length("planes", planes.size(), planes.size() / unit * unit, "so many of each block");
  std::vector<Buffer> from;
  std::vector<const std::uint8_t*> rows;
  std::size_t n = 0;
  for (const py::object& plane : planes) {
    from.emplace_back(plane);
    rows.push_back(from.back().data());
    const std::size_t first = (from.size() - 1) / unit * unit;
    check_length("bytes of a plane", from.back().n_bytes(), from[first].n_bytes(),
                 "as many as of the block's first");
    if (first + 1 == from.size()) n += from.back().n_bytes();
  }
  check_length("bytes of out", to.n_bytes(), n * unit, "as many as of the planes");
  const Fields how = to_enum<Fields>("fields", fields, kFields);
  const FloatEnvironment environment;
  const py::gil_scoped_release release;
  std::size_t at = 0;
  for (std::size_t block = 0; block < rows.size(); block += unit) {
    const std::size_t n_elements = from[block].n_bytes();
    kernels().join_fields[index]({rows.data() + block, other ? other->data() + at : nullptr, how,
                                  to.data() + at, n_elements});
    at += n_elements * unit;
  }
}

// Returns the content fingerprint of bytes that lie `first` bytes into a tensor, and of each block
// of them a number of 32 bits.
std::pair<std::vector<std::uint64_t>, std::vector<std::uint32_t>> fingerprint_blocks(
    const py::object& data, std::size_t block_bytes, std::uint64_t first) {
  const Buffer from(data);
  check_between("block_bytes", static_cast<std::int64_t>(block_bytes), 64, std::int64_t(1) << 40);
  check_length("bytes of a block", block_bytes % 64, 0, "beyond a multiple of 64");
  std::vector<std::uint64_t> total(8);
  std::vector<std::uint32_t> checks;
  const FloatEnvironment environment;
  const py::gil_scoped_release release;
  for (std::size_t at = 0; at < from.n_bytes(); at += block_bytes) {
    std::uint64_t lanes[8] = {}, folded = 0;
    kernels().fingerprint(from.data() + at, std::min(block_bytes, from.n_bytes() - at), first + at,
                          lanes);
    for (std::size_t lane = 0; lane < 8; ++lane) {
      total[lane] += lanes[lane];
      folded = (folded ^ lanes[lane]) * 0x9e3779b97f4a7c15u;
      folded ^= folded >> 32;
    }
    checks.push_back(static_cast<std::uint32_t>(folded));
  }
  return {total, checks};
}

}  // namespace

void register_fields(py::module_& m) {
  using py::arg, py::kw_only, py::none;
  m.def("split_fields", &split_fields, kw_only(), arg("values"), arg("base") = none(), arg("unit"),
        arg("fields"), arg("out"));
  m.def("join_fields", &join_fields, kw_only(), arg("planes"), arg("base") = none(), arg("unit"),
        arg("fields"), arg("out"));
  m.def("fingerprint_blocks", &fingerprint_blocks, arg("data"), kw_only(), arg("block_bytes"),
        arg("first") = 0);
}

}  // namespace tallies::bind
