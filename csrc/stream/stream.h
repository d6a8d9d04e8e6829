// Byte ranges in, tiles in bounded buffers, byte ranges out. Knows no tensor names, no method and
// no kernel: a job is some parallel arrays, and a tile is a run of their elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "stream/buffers.h"

namespace tallies {

struct Tile {
  std::size_t job;        // index into the jobs
  std::uint64_t first;    // element of the arrays
  std::size_t n;          // elements
  const void* const* in;  // one per input: the first record that the tile needs
  void* const* out;       // one per row of outputs
  int worker;             // below Limits::n_threads
  std::size_t number;     // position of the tile among all tiles of the run
};

using Transform = std::function<void(const Tile&)>;
// Called with the bytes moved since the last call, from the thread that called stream(), about
// twenty times a second; false stops the run.
using Progress = std::function<bool(std::uint64_t n_bytes)>;

// Runs the transform over every tile of the jobs named by the tiling. Returns false if stopped.
// Throws the first exception of any thread after all have ended. Runs with the threads that the
// system allows, down to the calling thread alone.
bool stream(const Files&, const std::vector<Job>& jobs, const Tiling&, const Limits&,
            const Transform&, const Progress&, const Memory& = {});

}  // namespace tallies
