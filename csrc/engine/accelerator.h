// Merges tiles on a CUDA device. Every worker has a stream and device memory of its own: while the
// tile of one is copied there, the tile of another is merged and a third is copied back.
#pragma once

#include <memory>
#include <vector>

#include "core/table.h"
#include "cuda/load.h"
#include "stream/stream.h"

namespace tallies {

namespace cuda {

// Something of a device, given back by this function. A failure then has shown before, or is past
// saving.
struct GiveBack {
  Failure (*call)(void*) = nullptr;
  void operator()(void* p) const { call(p); }
};
using Owned = std::unique_ptr<void, GiveBack>;

}  // namespace cuda

class Accelerator {
 public:
  // Throws Error (request) if there is no device.
  explicit Accelerator(int n_workers);
  Accelerator(const Accelerator&) = delete;
  Accelerator& operator=(const Accelerator&) = delete;

  // Host memory that copies from and to the device at full speed.
  Memory pinned() const;

  // KernelTable::combine for arrays in host memory; waits for the result.
  void combine(int worker, DType type, int rule, const CombineArgs& args, CombineTally& tally);

 private:
  struct Lane {
    cuda::Owned stream;
    cuda::Owned memory;  // of the device
    std::size_t n_bytes = 0;
    cuda::Owned tally;  // pinned
  };
  const cuda::Table& table_;
  std::vector<Lane> lanes_;
};

// Tiles with fewer bytes of inputs are merged sooner than they are copied.
inline constexpr std::size_t kLeastDeviceBytes = std::size_t(1) << 16;

// Bytes of inputs a second that reach the device, and that one thread of the processor merges from
// its cache. A device can only slow down a merge whose second rate, summed over the threads, is the
// higher one.
double link_rate();
double merge_rate(int rule, int n_experts);

}  // namespace tallies
