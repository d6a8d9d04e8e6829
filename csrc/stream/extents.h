// The reads of tiles to come, joined to extents: ranges of files that are read at once.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "stream/tiling.h"

namespace tallies {

// Bytes of one file, within a block of it that begins on a multiple of the size of blocks.
struct Extent {
  int file;
  std::uint64_t first, end;
  std::size_t n_left = 0;  // bytes that tiles are still to take
  enum class State : std::uint8_t { planned, begun, ready } state = State::planned;
  char* block = nullptr;  // memory that begins with the block's first byte; null: read the file
};

// The part of an extent that one tile takes.
struct Piece {
  std::shared_ptr<Extent> extent;
  std::uint64_t offset;
  std::size_t n_bytes;
};

// Plans tiles in their order, from `first` on.
class Extents {
 public:
  Extents(const std::vector<Job>&, const Tiling&, std::size_t block_bytes, std::size_t first);

  // Plans further tiles while those not taken need fewer bytes than so many.
  void plan(std::size_t n_bytes);
  // Returns the pieces of a tile, in the order in which Buffers reads them.
  std::vector<Piece> take(std::size_t tile);
  bool knows(std::size_t tile) const { return tile >= first_; }
  // Extents that nobody has begun to read, in the order in which tiles need them.
  std::deque<std::shared_ptr<Extent>>& to_read() { return to_read_; }

 private:
  struct Pieces {
    std::vector<Piece> pieces;
    std::size_t n_bytes = 0;  // in whole pages
  };
  void plan_tile();
  void add(std::size_t input, int file, std::size_t n_bytes, std::uint64_t offset, Pieces&);

  const std::vector<Job>& jobs_;
  const Tiling& tiling_;
  const std::size_t block_bytes_, first_;
  std::size_t next_;                           // the first tile that is not planned
  std::size_t n_planned_ = 0;                  // bytes of tiles that are not taken
  std::vector<Pieces> tiles_;                  // from first_ on
  std::vector<std::shared_ptr<Extent>> last_;  // of each input
  std::deque<std::shared_ptr<Extent>> to_read_;
};

}  // namespace tallies
