#include "stream/ahead.h"

#include <algorithm>
#include <cstring>

#include "stream/pages.h"

namespace tallies {
namespace {

constexpr std::size_t kReaders = 8;
// Tiles are planned and, through the page cache, fetched so far ahead.
constexpr std::size_t kAheadBytes = std::size_t(64) << 20;
// Bytes of all blocks past the page cache.
constexpr std::size_t kMostBytes = std::size_t(32) << 20, kLeastBytes = std::size_t(1) << 20;
constexpr std::size_t kLargestBlock = std::size_t(1) << 20, kSmallestBlock = std::size_t(1) << 16;
// Shorter extents are not worth a block. The system fetches hundreds of them at once.
constexpr std::size_t kWorthBlock = std::size_t(32) << 10;

}  // namespace

Ahead::Ahead(const Files& files, const std::vector<Job>& jobs, const Tiling& tiling,
             const Limits& limits)
    : files_(files), jobs_(jobs), tiling_(tiling), io_(limits.io), n_direct_(*limits.n_direct) {
  std::size_t n_inputs = 1;
  for (const Job& job : jobs) n_inputs = std::max(n_inputs, job.inputs.size());
  const std::size_t n_bytes = std::clamp(
      static_cast<std::size_t>(limits.n_threads) * limits.buffer_bytes, kLeastBytes, kMostBytes);
  // Four blocks of each input: one is copied from, one or two are read.
  for (block_bytes_ = kLargestBlock;
       block_bytes_ > kSmallestBlock && block_bytes_ * n_inputs * 4 > n_bytes;)
    block_bytes_ /= 2;
  n_blocks_ = n_bytes / block_bytes_;
}

Ahead::~Ahead() {
  const std::lock_guard lock(mutex_);
  stop_ = true;
  room_.notify_all();
}

void Ahead::read(std::size_t tile, const Job& job, const Tiling::Range& range, Buffers& buffers) {
  std::vector<Piece> pieces;
  if (!begin(tile, pieces)) {
    bool was_cached = true;
    buffers.read(job, range, [&](int file, void* to, std::size_t n_bytes, std::uint64_t offset) {
      was_cached &= files_.read(file, to, n_bytes, offset);
    });
    const std::lock_guard lock(mutex_);
    if (!was_cached) start(n_begun_);
    return;
  }
  auto piece = pieces.begin();
  buffers.read(job, range, [&](int, void* to, std::size_t n_bytes, std::uint64_t) {
    for (std::size_t at = 0; at < n_bytes; at += piece++->n_bytes)
      copy(*piece, static_cast<char*>(to) + at);
  });
}

// Returns whether the tile is read ahead, and its pieces.
bool Ahead::begin(std::size_t tile, std::vector<Piece>& pieces) {
  const std::lock_guard lock(mutex_);
  // A miss makes the system fetch some MiB: one a run is enough, not one a pass.
  if (io_ == Io::direct || n_direct_.load(std::memory_order_relaxed) > 0) start(tile);
  n_begun_ = std::max(n_begun_, tile + 1);
  if (!extents_ || !extents_->knows(tile)) return false;
  pieces = extents_->take(tile);
  room_.notify_one();
  return true;
}

// Starts to read ahead, from this tile on.
void Ahead::start(std::size_t tile) {
  if (extents_) return;
  extents_.emplace(jobs_, tiling_, block_bytes_, tile);
  extents_->plan(kAheadBytes);
  const std::size_t n = std::min(kReaders, extents_->to_read().size());
  readers_.emplace(static_cast<int>(n), [this](int) { read_ahead(); });
}

void Ahead::read_ahead() {
  std::unique_lock lock(mutex_);
  while (!stop_)
    if (!read_next(lock, false)) room_.wait(lock);
}

// Reads the next extent; waits for it without the lock. Returns false if there is none, or no
// block for one that no worker needs yet.
bool Ahead::read_next(std::unique_lock<std::mutex>& lock, bool is_needed) {
  extents_->plan(kAheadBytes);
  if (extents_->to_read().empty()) return false;
  const std::shared_ptr<Extent> extent = extents_->to_read().front();
  char* block = nullptr;
  if (io_ != Io::buffered && extent->end - extent->first >= kWorthBlock) {
    if (free_.empty()) {
      if (!memory_.empty() && !is_needed) return false;
      add_blocks(memory_.empty() ? n_blocks_ : 1);
    }
    block = free_.back();
    free_.pop_back();
  }
  extents_->to_read().pop_front();
  extent->state = Extent::State::begun;
  lock.unlock();
  const bool is_filled = fill(*extent, block);
  lock.lock();
  if (is_filled) extent->block = block;
  if (!is_filled && block != nullptr) free_.push_back(block);
  extent->state = Extent::State::ready;
  ready_.notify_all();
  return true;
}

void Ahead::add_blocks(std::size_t n) {
  memory_.emplace_back(files_.spare().take(n * block_bytes_),
                       [this](void* data) { files_.spare().give_back(data); });
  char* const first = static_cast<char*>(memory_.back().get());
  // A read into pages of 4 KiB is cut into as many pieces: it had half the rate.
  prefer_huge_pages(first, n * block_bytes_);
  for (std::size_t i = 0; i < n; ++i) free_.push_back(first + i * block_bytes_);
}

// Returns whether the extent is in the block; else it is or will be in the page cache.
bool Ahead::fill(const Extent& extent, char* block) const {
  const int file = extent.file;
  const std::uint64_t first = extent.first, end = extent.end;
  if (block != nullptr) {
    if (io_ == Io::direct_unless_cached && files_.is_cached(file, end - first, first)) return false;
    const std::uint64_t from = first / kDirectUnit * kDirectUnit;
    const std::uint64_t to = (end + kDirectUnit - 1) / kDirectUnit * kDirectUnit;
    if (files_.read_direct(file, block + from % block_bytes_, to - from, end - from, from)) {
      n_direct_.fetch_add(end - first, std::memory_order_relaxed);
      return true;
    }
  }
  files_.will_need(file, end - first, first);
  return false;
}

void Ahead::copy(const Piece& piece, void* to) {
  Extent& extent = *piece.extent;
  std::unique_lock lock(mutex_);
  while (extent.state == Extent::State::planned && read_next(lock, true)) {
  }
  ready_.wait(lock, [&] { return extent.state == Extent::State::ready; });
  const char* const block = extent.block;
  lock.unlock();
  if (block != nullptr)
    std::memcpy(to, block + piece.offset % block_bytes_, piece.n_bytes);
  else
    files_.read(extent.file, to, piece.n_bytes, piece.offset);
  lock.lock();
  extent.n_left -= piece.n_bytes;
  if (extent.n_left > 0 || extent.block == nullptr) return;
  free_.push_back(extent.block);
  room_.notify_one();
}

}  // namespace tallies
