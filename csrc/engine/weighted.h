// Sums of task vectors with factors, and their gradients: tensors in memory, deltas decoded a chunk
// at a time, in memory that does not depend on the size of a tensor.
#pragma once

#include "engine/source.h"

namespace tallies {

// One tensor cut into `n_blocks` blocks of near-equal length: block k begins at element
// floor(k * n_elements / n_blocks).
struct Weighted {
  std::vector<const Operand*> deltas;  // in memory
  std::uint64_t n_elements;
  std::uint64_t n_blocks;
  int n_threads;
};

// out = base + sum of factor * delta, in the order of the deltas; base and out are of `type`,
// factors lie delta by delta, one per block.
void weighted_sum(const Weighted&, const void* base, DType type, const float* factors, void* out);

// out = the sum of grad * delta over each block, delta by delta: products are exact, eight lanes in
// float64 over what a block and a chunk share, folded, and added in the order of the elements,
// within cells of 32 chunks and then over the cells.
void block_dots(const Weighted&, const void* grad, DType type, double* out);

// Writes the elements of a delta in memory as float32, every NaN the quiet positive one.
void decode_all(const Operand&, std::uint64_t n_elements, int n_threads, float* out);

}  // namespace tallies
