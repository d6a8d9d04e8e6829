// How jobs are cut into tiles: known before a run starts, and the same for every pass over the same
// jobs.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "stream/array.h"
#include "stream/file.h"

namespace tallies {

// Tiles start on multiples of this many elements, so that bytes of any type start on cache lines.
inline constexpr std::size_t kGrain = 64;

// A larger tile leaves the second-level cache between the read and the kernel.
inline constexpr std::size_t kTileBytes = std::size_t(1) << 20;

struct Output : Array {
  std::size_t row = 0;  // of Tile::out; outputs with one row are copies of each other
};

// Some parallel arrays, and the elements of them that a pass goes through.
struct Job {
  std::uint64_t n_elements;
  std::vector<Array> inputs;
  std::vector<Output> outputs;  // empty in a survey
  std::size_t grain = kGrain;   // tiles start on multiples of it, which is one of kGrain
  std::uint64_t first = 0;      // element of the arrays, a multiple of kGrain
  std::size_t unit = 1;         // tiles start on multiples of it as well where they have room

  std::size_t n_rows() const;
  // Bytes that n elements from `first` on move, and those among them that are read from files.
  std::size_t moved_bytes(std::uint64_t first, std::size_t n) const;
  std::size_t file_bytes(std::uint64_t first, std::size_t n) const;
};

struct Limits {
  int n_threads;
  std::size_t buffer_bytes;             // per thread, for one tile of all arrays
  std::size_t tile_bytes = kTileBytes;  // of a tile, within the buffer
  std::size_t device_bytes = 0;         // of a device's memory, for transforms that use one
  // Bytes of work for which a thread is started; up to twice as many the calling thread does alone.
  // 0 starts all threads, whatever the work.
  std::size_t worth_bytes = 0;
  Io io = Io::buffered;
  // Bytes of lists of elements that guesses leave open; 0 for as many as all buffers have.
  std::size_t list_bytes = 0;
  // Bytes that all passes with these limits, and with copies of them, read past the page cache.
  std::shared_ptr<std::atomic<std::uint64_t>> n_direct =
      std::make_shared<std::atomic<std::uint64_t>>(0);

  int threads_for(std::size_t n_bytes) const;
};

class Tiling {
 public:
  Tiling(const std::vector<Job>& jobs, const std::vector<std::size_t>& order, const Limits&);
  // All jobs, in their order.
  Tiling(const std::vector<Job>& jobs, const Limits&);

  std::size_t n_tiles() const { return first_tile_.back(); }
  std::size_t max_elements() const { return max_elements_; }
  struct Range {
    std::size_t job;
    std::uint64_t first;  // element of the arrays
    std::size_t n;
  };
  Range range(std::size_t tile) const;

 private:
  const std::vector<Job>& jobs_;
  std::vector<std::size_t> order_;
  std::vector<std::size_t> tile_elements_;
  std::vector<std::size_t> first_tile_;
  std::size_t max_elements_ = 0;
};

}  // namespace tallies
