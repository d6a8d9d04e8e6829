// The checks of exact changes of elements before a kernel runs.
#pragma once

#include "torch/changes.h"
#include "torch/checks.h"

namespace tallies::torch {

// A tensor as it lies, because it is changed there or read as another type.
template <class Device>
Tensor contiguous(Name name, Tensor x, std::int32_t dtype, std::size_t n_bytes,
                  const Tensor* first = nullptr) {
  check_place<Device>(name, x, first == nullptr ? x : *first);
  if (x.dtype() != dtype)
    refuse(name.str() + ": found dtype " + dtype_word(x.dtype()) + ", expected " +
           dtype_word(dtype) + "; view it as that");
  if (!x.is_contiguous() || reinterpret_cast<std::uintptr_t>(x.data()) % n_bytes != 0)
    refuse(name.str() +
           ": found a tensor whose elements do not lie in order, or not on multiples "
           "of their size; copy it with .clone()");
  return x;
}

template <class Device>
ElementChanges element_changes(Tensor elements, Tensor positions, Tensor blocks, Tensor given,
                               const std::string& layout, const std::string& coding) {
  static const std::vector<std::string> layouts = {"none", "gaps", "mask", "dense"};
  static const std::vector<std::string> codings = {"xor", "difference", "new", "undone difference"};
  const std::int32_t words[] = {aoti_torch_dtype_uint8(), aoti_torch_dtype_int16(),
                                aoti_torch_dtype_int32(), aoti_torch_dtype_int64()};
  const std::int32_t dtype = elements.dtype();
  const auto unit = static_cast<std::size_t>(std::ranges::find(words, dtype) - words);
  if (unit == std::size(words))
    refuse("elements: found dtype " + dtype_word(dtype) +
           ", expected uint8, int16, int32 or int64; view it as that of its size");
  const std::size_t n_bytes = std::size_t(1) << unit;
  Tensor to = contiguous<Device>("elements", std::move(elements), dtype, n_bytes);
  Tensor at =
      contiguous<Device>("positions", std::move(positions), aoti_torch_dtype_uint8(), 1, &to);
  Tensor ends = contiguous<Device>("blocks", std::move(blocks), aoti_torch_dtype_int32(), 4, &to);
  Tensor values = contiguous<Device>("values", std::move(given), dtype, n_bytes, &to);
  const auto form = static_cast<Layout>(choice("layout", layout, layouts));
  const bool has_blocks = form == Layout::gaps || form == Layout::mask;
  const std::size_t n_ends = has_blocks ? 2 * n_blocks(to.n()) : 0;
  if (ends.n() != n_ends)
    refuse("blocks: found " + std::to_string(ends.n()) + " numbers, expected " +
           std::to_string(n_ends) + ", two for each " + std::to_string(kChangeBlock) +
           " elements of gaps and masks");
  if (form == Layout::dense && values.n() != to.n())
    refuse("values: found " + std::to_string(values.n()) + ", expected " + std::to_string(to.n()) +
           ", one for each element");
  return {std::move(to),
          std::move(at),
          std::move(ends),
          std::move(values),
          unit,
          form,
          static_cast<Coding>(choice("coding", coding, codings))};
}

}  // namespace tallies::torch
