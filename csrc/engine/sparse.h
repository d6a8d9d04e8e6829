// Sparse task vectors: of each tensor a packed mask of what is kept, and the values there, side by
// side in row-major order. One pass counts them, so that the place of each is known; one writes;
// one reads.
#pragma once

#include "engine/engine.h"

namespace tallies {

// Elements whose kept ones are counted together; tiles start on multiples of it.
inline constexpr std::size_t kStrip = std::size_t(1) << 16;

enum class SparseValues : std::uint8_t {
  replaced,   // the expert's elements, kept where a bit of them is not the base's
  added,      // x = expert - base, rounded to a type
  quantized,  // x over the scale of its row, rounded to an int8
};

// What is kept of one job of a plan, whose inputs are the base and an expert.
struct SparseRule {
  std::size_t job;
  SparseValues values;
  std::int32_t floor;    // x with bits(|x|) > floor is kept; without meaning when replaced
  std::uint64_t n_rows;  // each has a scale; without meaning unless quantized
};

struct SparseCount {
  std::vector<std::uint64_t> before;  // entries kept before each strip; at last, all
  std::vector<std::int32_t> largest;  // bits of the largest |x| kept in each row, when quantized
  bool nonfinite = false;             // some x, kept or not; never looked at when replaced

  std::uint64_t n_set() const { return before.back(); }
};

using SparseCounts = std::vector<SparseCount>;  // one per rule

// Where the entries of one tensor lie.
struct SparseEntries {
  Array mask, values, scales;  // no scales unless quantized
  DType type;                  // of the values, when added
};

struct SparseWritten {
  std::vector<Lanes> inputs;  // content fingerprints
  Lanes mask{};
  bool overflow = false;  // a value that is not finite in its type, when added
};

struct SparseTensor {
  std::uint64_t n_elements;
  SparseValues values;
  std::uint64_t n_rows;
  Array base;
  DType type;  // of base and output; when replaced, any of its size
  SparseEntries entries;
  std::vector<Output> outputs;
};

struct SparseRead {
  Lanes base{}, mask{}, values{}, output{};
  bool overflow = false;
};

SparseCounts count_sparse(const Plan&, const std::vector<SparseRule>&, const Limits&,
                          const Progress&);

// Error if a tensor has other entries than were counted.
std::vector<SparseWritten> pack_sparse(const Plan&, const std::vector<SparseRule>&,
                                       const SparseCounts&, const std::vector<SparseEntries>&,
                                       const Limits&, const Progress&);

// Counts the bits of the masks.
SparseCounts count_masks(const Files&, const std::vector<SparseTensor>&, const Limits&,
                         const Progress&);

// out = base + (mask ? value : +0), rounded once; or, replaced, the value or the base as they are.
// The caller has made sure that there are as many values as were counted.
std::vector<SparseRead> unpack_sparse(const Files&, const std::vector<SparseTensor>&,
                                      const SparseCounts&, const Limits&, const Progress&);

}  // namespace tallies
