// Exact changes of elements, as the operators hand them to a device.
#pragma once

#include "engine/changed_elements.h"
#include "torch/tensor.h"

namespace tallies::torch {

// All tensors are contiguous: elements and values of one type of whole numbers, positions of bytes,
// blocks of int32, two for each block.
struct ElementChanges {
  Tensor elements, positions, blocks, values;
  std::size_t unit;  // the index of the size of an element in tables of kernels
  Layout layout;
  Coding coding;
};

}  // namespace tallies::torch
