// Sparse task vectors: a packed mask of the elements that a tensor stores, and their values side by
// side in row-major order. One pass counts the values, so that the place of each is known; one
// writes. Sparse sources of a job read them (engine/source.h).
#pragma once

#include <tuple>

#include "engine/fingerprints.h"

namespace tallies {

// Elements that are counted together; tiles start on multiples of it.
inline constexpr std::size_t kStrip = std::size_t(1) << 16;

enum class SparseValues : std::uint8_t {
  replaced,   // the expert's elements, stored where a bit of them is not the base's
  added,      // x = expert - base, rounded to a type
  quantized,  // x over the scale of its row, rounded to an int8
};

// The elements to store of one job of a plan, whose sources are the base and an expert.
struct SparseRule {
  std::size_t job;
  SparseValues values;
  std::int32_t floor;        // x with bits(|x|) > floor is stored; without meaning when replaced
  std::uint64_t row_length;  // elements with one scale; without meaning unless quantized
};

struct SparseCount {
  Starts starts;                      // entries before each strip; at last, all
  std::vector<std::int32_t> largest;  // bits of the largest |x| stored in each row, when quantized
  bool nonfinite = false;             // some x, stored or not; never looked at when replaced

  std::uint64_t n_set() const { return starts->back(); }
};

using SparseCounts = std::vector<SparseCount>;  // one per rule

// The arrays to which the entries of one tensor are written.
struct SparseEntries {
  Array mask, values, scales;  // no scales unless quantized
  DType type;                  // of the values, when added
};

struct SparseWritten {
  std::vector<Lanes> inputs;  // content fingerprints
  Lanes mask{};
  bool overflow = false;  // a value that is not finite in its type, when added
  static auto fields(auto& part) { return std::tie(part.inputs, part.mask, part.overflow); }
};

SparseCounts count_sparse(const Plan&, const std::vector<SparseRule>&, const Limits&,
                          const Progress&);

// Throws a storage error if a tensor has other entries than were counted.
std::vector<SparseWritten> pack_sparse(const Plan&, const std::vector<SparseRule>&,
                                       const SparseCounts&, const std::vector<SparseEntries>&,
                                       const Limits&, const Progress&);

// Counts the bits of packed masks of so many elements each, by groups of `per` elements.
std::vector<Starts> count_masks(const Files&, const std::vector<Array>& masks,
                                const std::vector<std::uint64_t>& n_elements, std::uint64_t per,
                                const Limits&, const Progress&);

// Return how many records of a sparse array a tile has.
std::uint64_t n_records(const Array&, const Tile&);

// Throws a storage error unless a tile has as many entries as were counted.
void refuse_other_count(std::uint64_t n_found, std::uint64_t n_counted);

}  // namespace tallies
