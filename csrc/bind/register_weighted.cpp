#include <pybind11/stl.h>

#include "bind/arrays.h"
#include "bind/watch.h"
#include "engine/restore.h"
#include "engine/weighted.h"

namespace tallies::bind {
namespace {

using Form = Delta::Form;

Delta dense(Address values, int dtype, std::uint64_t n) {
  return {.form = Form::dense,
          .n_elements = n,
          .type = static_cast<DType>(dtype),
          .values = at<const void>(values)};
}

Delta masked(Address shared, int dtype, Address mask, float scale, std::uint64_t n) {
  return {.form = Form::masked,
          .n_elements = n,
          .type = static_cast<DType>(dtype),
          .values = at<const void>(shared),
          .mask = at<const std::uint8_t>(mask),
          .scale = scale};
}

Delta signs(Address mask, float magnitude, std::uint64_t n) {
  return {.form = Form::signs,
          .n_elements = n,
          .mask = at<const std::uint8_t>(mask),
          .scale = magnitude};
}

Delta with_mask(Form form, Address mask, Address values, int dtype, std::uint64_t n) {
  const auto* bits = at<const std::uint8_t>(mask);
  return {.form = form,
          .n_elements = n,
          .type = static_cast<DType>(dtype),
          .values = at<const void>(values),
          .mask = bits,
          .before = count_chunks(bits, n)};
}

Delta sparse(Address mask, Address values, int dtype, std::uint64_t n) {
  return with_mask(Form::sparse, mask, values, dtype, n);
}

Delta quantized(Address mask, Address values, Address scales, std::uint64_t n_rows,
                std::uint64_t n) {
  // Any type of one byte.
  Delta delta = with_mask(Form::quantized, mask, values, static_cast<int>(DType::e4m3), n);
  delta.row_scales = at<const float>(scales);
  delta.n_rows = n_rows;
  return delta;
}

Delta replaced(Address mask, Address values, int dtype, std::uint64_t n) {
  if (mask != 0) return with_mask(Form::replaced, mask, values, dtype, n);
  Delta delta = dense(values, dtype, n);
  delta.form = Form::replaced;
  return delta;
}

}  // namespace

void register_weighted(py::module_& m) {
  py::class_<Delta>(m, "Delta")
      .def_static("zero", [](std::uint64_t n) { return Delta{.n_elements = n}; })
      .def_static("dense", &dense)
      .def_static("masked", &masked)
      .def_static("signs", &signs)
      .def_static("sparse", &sparse, Native())
      .def_static("quantized", &quantized, Native())
      .def_static("replaced", &replaced, Native())
      .def_property_readonly(
          "n_kept",
          [](const Delta& delta) { return delta.before.empty() ? 0 : delta.before.back(); })
      .def(
          "decode",
          [](const Delta& delta, int threads, Address out) {
            decode_all(delta, threads, at<float>(out));
          },
          Native());

  m.def(
      "weighted_sum",
      [](const std::vector<const Delta*>& deltas, std::uint64_t n, std::uint64_t n_blocks,
         int threads, Address base, int dtype, Address factors, Address out) {
        weighted_sum({deltas, n, n_blocks, threads}, at<const void>(base),
                     static_cast<DType>(dtype), at<const float>(factors), at<void>(out));
      },
      Native());
  m.def(
      "block_dots",
      [](const std::vector<const Delta*>& deltas, std::uint64_t n, std::uint64_t n_blocks,
         int threads, Address grad, int dtype, Address out) {
        block_dots({deltas, n, n_blocks, threads}, at<const void>(grad), static_cast<DType>(dtype),
                   at<double>(out));
      },
      Native());
  m.def(
      "restore",
      [](const Plan& plan, const std::vector<const Delta*>& deltas, const Limits& limits) {
        Watch watch{py::none()};
        return watch.run([&](const Progress& on_progress) {
          return restore(plan, deltas, limits, on_progress);
        });
      },
      py::arg("plan"), py::arg("deltas"), py::arg("limits"));
}

}  // namespace tallies::bind
