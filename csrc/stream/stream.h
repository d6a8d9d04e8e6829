// Byte ranges in, tiles in bounded buffers, byte ranges out. Knows no tensor names, no method and
// no kernel: a job is some parallel arrays of elements, and a tile is a stretch of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "stream/file.h"

namespace tallies {

// Tiles start on multiples of this many elements, so that bytes of any type start on cache lines.
inline constexpr std::size_t kGrain = 64;

// Where an array lies: in an open file, or in memory that outlives the run (file = -1).
struct Array {
  int file;
  std::uint64_t offset;      // in the file, or the address
  std::size_t element_bits;  // 1 for packed masks

  std::size_t n_bytes(std::size_t n_elements) const { return (n_elements * element_bits + 7) / 8; }
  // Of an element at which a byte begins.
  std::uint64_t at(std::uint64_t element) const { return offset + element * element_bits / 8; }
};

struct Output : Array {
  std::size_t row = 0;  // of Tile::out; what several outputs share is written to each of them
};

struct Job {
  std::uint64_t n_elements;
  std::vector<Array> inputs;
  std::vector<Output> outputs;  // empty in a survey
  std::size_t grain = kGrain;   // tiles start on multiples of it, which is one of kGrain
  std::uint64_t first = 0;      // tiles cover the n_elements from here on, a multiple of the grain

  std::size_t n_rows() const;
};

struct Tile {
  std::size_t job;      // index into the jobs
  std::uint64_t first;  // element of the job
  std::size_t n;        // elements
  const void* const* in;
  void* const* out;    // one per row of outputs
  int worker;          // below Limits::n_threads
  std::size_t number;  // position of the tile among all tiles of the run
};

// A larger tile leaves the second-level cache between the read and the kernel.
inline constexpr std::size_t kTileBytes = std::size_t(1) << 20;

struct Limits {
  int n_threads;
  std::size_t buffer_bytes;             // per thread, for one tile of all streams
  std::size_t tile_bytes = kTileBytes;  // of what a tile has in mind, within the buffer
  std::size_t device_bytes = 0;         // of a device's memory, for transforms that use one
};

// Where buffers come from; they begin on a page.
struct Memory {
  std::function<void*(std::size_t n_bytes)> allocate;
  std::function<void(void*)> release;
};
Memory heap();

using Transform = std::function<void(const Tile&)>;
// Called with the bytes moved since the last call, from the thread that called stream(), about
// twenty times a second; false stops the run.
using Progress = std::function<bool(std::uint64_t n_bytes)>;

// How a run is cut into tiles: known before it starts, the same for every pass over the same jobs.
class Tiling {
 public:
  Tiling(const std::vector<Job>& jobs, const std::vector<std::size_t>& order, const Limits&);
  // All jobs, in their order.
  Tiling(const std::vector<Job>& jobs, const Limits&);

  std::size_t n_tiles() const { return first_tile_.back(); }
  std::size_t max_elements() const { return max_elements_; }
  struct Range {
    std::size_t job;
    std::uint64_t first;
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

// Runs the transform over every tile of the jobs named by the tiling. Returns false if stopped.
// Throws the first Error of any thread after all have ended.
bool stream(const Files&, const std::vector<Job>& jobs, const Tiling&, const Limits&,
            const Transform&, const Progress&, const Memory& = heap());

// Calls body(i) for each i below n, from up to n_threads threads. The body must not throw.
void parallel_for(std::size_t n, int n_threads, const std::function<void(std::size_t)>& body);

// Threads for those who do not choose: one for each core that this process may use.
int default_threads();

// Reads one stretch of one array; memory is not copied but pointed to.
const void* fetch(const Files&, const Array&, std::uint64_t first, std::size_t n, void* buffer);

}  // namespace tallies
