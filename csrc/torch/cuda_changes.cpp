// Exact changes of CUDA tensors. Nothing looks at what the device has: a kernel passes over changes
// that name no element.

#include "torch/cuda.h"

namespace tallies::torch {

void Cuda::change_elements(Stream& stream, ElementChanges& given) {
  const cuda::Table& table = stream.table();
  const auto coding = static_cast<std::size_t>(given.coding);
  void* const elements = given.elements.mutable_data();
  const cuda::CodedChanges coded{static_cast<const std::uint8_t*>(given.positions.data()),
                                 static_cast<const std::uint32_t*>(given.blocks.data()),
                                 given.values.data(),
                                 given.positions.n(),
                                 given.values.n(),
                                 given.elements.n(),
                                 elements};
  if (given.layout == Layout::gaps)
    stream.check(table.scatter_gaps[given.unit][coding](coded, stream.queue()));
  if (given.layout == Layout::mask)
    stream.check(table.scatter_mask[given.unit][coding](coded, stream.queue()));
  if (given.layout == Layout::dense)
    stream.check(table.change_all[given.unit][coding](given.values.data(), given.elements.n(),
                                                      elements, stream.queue()));
}

}  // namespace tallies::torch
