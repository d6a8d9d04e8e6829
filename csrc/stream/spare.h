// Memory that the passes over some files leave to each other.
#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

namespace tallies {

// Pieces of memory that begin on a page. One that comes back is kept for the next who asks, because
// the first touch of two workers' buffers takes half a millisecond, and a merge makes dozens of
// passes. No more are kept than were in use at once.
class Spare {
 public:
  Spare() = default;
  Spare(const Spare&) = delete;
  Spare& operator=(const Spare&) = delete;
  ~Spare();

  void* take(std::size_t n_bytes);
  void give_back(void*) noexcept;

 private:
  struct Piece {
    void* data;
    std::size_t n_bytes;
    bool in_use;
  };
  std::mutex mutex_;
  std::vector<Piece> pieces_;
};

}  // namespace tallies
