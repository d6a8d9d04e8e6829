// Makes float32 values of the records of sources.
#pragma once

#include "engine/source.h"
#include "stream/stream.h"

namespace tallies {

// Elements that are decoded together: the first-level cache holds their float32 values.
inline constexpr std::size_t kChunk = 2048;

// Some elements of one source of a tile.
struct Piece {
  const Source& source;
  const Tile& tile;
  std::size_t at, n;  // from the tile's first element on; any number
  std::size_t& next;  // values of a sparse array that lie before `at`; raised by those decoded

  std::uint64_t first() const { return tile.first + at; }
  const void* array(std::size_t i) const { return tile.in[source.array + i]; }
  const char* values(std::size_t element) const {
    return static_cast<const char*>(array(0)) + element * size_of(source.type);
  }
};

// Writes the values, with all changes of them.
void decode(Piece, float* out);

// Makes the changes of a source in the values of a piece (engine/change.cpp).
void make_changes(const Piece&, float* values);

// Return the values of a sparse array that lie before element `at` of a tile; 0 for other sources.
std::size_t values_before(const Source&, const Tile&, std::size_t at);

}  // namespace tallies
