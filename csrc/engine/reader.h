// How operands become rows: one thread's reader, the only way from a tile to the values of its
// sources.
#pragma once

#include <vector>

#include "engine/aligned.h"
#include "engine/decode.h"

namespace tallies {

enum class As : std::uint8_t {
  as_stored,  // all of a tile at once where kernels read what is stored; else as float32
  float32,
  deltas,  // float32: each source but the first, minus the first
  copies,  // float32 that may be overwritten as deltas may
};

// The values of some elements: a row of each source, or of each delta.
struct Rows {
  DType type;                           // float32, unless they are as stored
  std::span<const void* const> values;  // the rows
  std::span<float* const> deltas;       // the same rows of deltas and copies, to be overwritten
};

class Reader {
 public:
  // Calls body(rows, first, n) for the n elements of a tile from `begin` on, in order: `first` is
  // an element of the tile. Each call has `chunk` elements at most, unless they are as stored.
  template <class Body>
  void for_each_rows(const Tile& tile, std::size_t begin, std::size_t n_elements,
                     std::span<const Source> sources, As as, const Body& body,
                     std::size_t chunk = kChunk) {
    if (as == As::as_stored && stored_type(sources) != DType::f64) {
      body(stored(tile, sources, begin), begin, n_elements);
      return;
    }
    start(tile, sources, as, begin, chunk);
    const std::size_t end = begin + n_elements;
    for (std::size_t first = begin, n; first < end; first += n) {
      n = std::min(chunk, end - first);
      body(as == As::deltas   ? deltas(tile, sources, first, n)
           : as == As::copies ? copies(tile, sources, first, n)
                              : float32(tile, sources, first, n),
           first, n);
    }
  }
  // The same for all elements of the tile.
  template <class Body>
  void for_each_rows(const Tile& tile, std::span<const Source> sources, As as, const Body& body,
                     std::size_t chunk = kChunk) {
    for_each_rows(tile, 0, tile.n, sources, as, body, chunk);
  }

 private:
  void start(const Tile&, std::span<const Source>, As, std::size_t begin, std::size_t chunk);
  Rows stored(const Tile&, std::span<const Source>, std::size_t first);
  Rows float32(const Tile&, std::span<const Source>, std::size_t first, std::size_t n);
  Rows deltas(const Tile&, std::span<const Source>, std::size_t first, std::size_t n);
  Rows copies(const Tile&, std::span<const Source>, std::size_t first, std::size_t n);
  const float* row(const Tile&, const Source&, std::size_t i, std::size_t first, std::size_t n);
  const float* changed(const Tile&, const Source&, std::size_t i, std::size_t first, std::size_t n);

  // Values of a changed source that were decoded together, for several chunks.
  struct Window {
    std::size_t job = 0, array = 0;
    std::uint64_t first = 0, n = 0;  // elements of the job
    AlignedFloats values;
  };
  std::size_t chunk_ = 0;
  std::vector<float> decoded_;     // a chunk of each source
  std::vector<std::size_t> next_;  // of each source, values of a sparse array that were decoded
  std::vector<const void*> rows_;
  std::vector<float*> deltas_;
  std::vector<Window> windows_;  // of each source
  std::size_t window_ = 0;       // elements of one
};

}  // namespace tallies
