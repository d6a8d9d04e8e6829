// Reads what tiles need before they need it, where it is not in the page cache.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include "stream/buffers.h"
#include "stream/extents.h"
#include "stream/threads.h"

namespace tallies {

// As long as reads find the page cache filled, each worker reads its tiles itself. From the first
// miss on, threads of their own read ahead: large extents past the page cache into blocks, from
// which workers copy, where Limits::io wants that; else they ask the system to fetch them.
class Ahead {
 public:
  Ahead(const Files&, const std::vector<Job>&, const Tiling&, const Limits&);
  ~Ahead();

  // Reads a tile's arrays into the buffers. Tiles come about in their order.
  void read(std::size_t tile, const Job&, const Tiling::Range&, Buffers&);

 private:
  bool begin(std::size_t tile, std::vector<Piece>& pieces);
  void start(std::size_t tile);
  void read_ahead();
  bool read_next(std::unique_lock<std::mutex>&, bool is_needed);
  void add_blocks(std::size_t n);
  bool fill(const Extent&, char* block) const;
  void copy(const Piece&, void* to);

  const Files& files_;
  const std::vector<Job>& jobs_;
  const Tiling& tiling_;
  const Io io_;
  std::atomic<std::uint64_t>& n_direct_;
  std::size_t block_bytes_, n_blocks_;
  std::mutex mutex_;
  std::condition_variable ready_, room_;
  std::size_t n_begun_ = 0;  // tiles up to the last that a worker has begun
  std::optional<Extents> extents_;
  std::vector<std::unique_ptr<void, std::function<void(void*)>>> memory_;  // of blocks
  std::vector<char*> free_;
  bool stop_ = false;
  std::optional<Threads> readers_;  // the last member: they end before the others go
};

}  // namespace tallies
