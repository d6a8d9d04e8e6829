// One worker's memory for a tile: its inputs are read there, its outputs written from there.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "stream/tiling.h"

namespace tallies {

// The source of buffers, each of which begins on a page: the spare memory of the files, unless
// there are functions.
struct Memory {
  std::function<void*(std::size_t n_bytes)> allocate = {};
  std::function<void(void*)> release = {};
};

// Return the bytes of memory for n bytes of an array.
//
// Arrays of a tile lie 320 bytes beyond whole pages: else the same elements of all share the few
// places of the caches that their addresses allow. Twenty arrays were added in 0.71 ns an element,
// in whole pages in 0.86.
constexpr std::size_t bytes_apart(std::size_t n_bytes) {
  return (n_bytes + 4095) / 4096 * 4096 + 320;
}

// Return the address of what n elements from `first` on need of an array in memory.
inline const void* address(const Array& array, std::uint64_t first, std::size_t n) {
  return reinterpret_cast<const void*>(array.offset + array.bytes(first, n).first);
}

// Reads bytes of a file.
using Read = std::function<void(int file, void* to, std::size_t n_bytes, std::uint64_t offset)>;

// Room for the largest tile of a run.
struct Room {
  std::size_t n_bytes = 1, n_inputs = 0, n_rows = 1;
};
Room room_for(const std::vector<Job>&, const Tiling&);

class Buffers {
 public:
  Buffers(const Files&, const Room&, const Memory&);

  // Reads the arrays of a tile, but those that are kept with `read`.
  void read(const Job&, const Tiling::Range&, const Read& read);
  void write(const Job&, const Tiling::Range&) const;
  const void* const* in() const { return in_.data(); }
  void* const* out() const { return out_.data(); }

 private:
  struct Kept {
    int file;
    std::uint64_t offset;
    std::size_t n_bytes;
    bool operator==(const Kept&) const = default;
  };
  char* read_kept(const Job&, const Tiling::Range&);

  const Files& files_;
  std::vector<Kept> kept_;  // in the order in which they lie at the beginning of the memory
  std::unique_ptr<void, std::function<void(void*)>> memory_;
  std::vector<const void*> in_;
  std::vector<void*> out_;
};

}  // namespace tallies
