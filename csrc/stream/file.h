// Open files, read and written by position from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "stream/spare.h"

namespace tallies {

// How files are read that are not in the page cache: through it, or past it (O_DIRECT) into
// memory of our own. `direct` reads past it what is cached as well.
enum class Io : std::uint8_t { buffered, direct, direct_unless_cached };

// Direct reads have offsets, lengths and memory in multiples of it.
inline constexpr std::size_t kDirectUnit = 4096;

class Files {
 public:
  Files() = default;
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  ~Files();

  int open_to_read(const std::string& path);
  // Creates the file with room for n_bytes, or opens the one that is there; never truncates.
  int open_to_write(const std::string& path, std::uint64_t n_bytes);

  int size() const {
    const std::shared_lock lock(mutex_);
    return static_cast<int>(open_.size());
  }

  // All bytes or an Error that names the file. Returns whether all were in the page cache.
  bool read(int file, void* to, std::size_t n_bytes, std::uint64_t offset) const;
  // Reads at least n_needed of n_bytes past the page cache. Returns false where the system does not
  // do so, or the file has fewer: `read` then says what is wrong.
  bool read_direct(int file, void* to, std::size_t n_bytes, std::size_t n_needed,
                   std::uint64_t offset) const;
  // Returns whether all of a range is in the page cache; false where the system does not tell.
  bool is_cached(int file, std::size_t n_bytes, std::uint64_t offset) const;
  void write(int file, const void* from, std::size_t n_bytes, std::uint64_t offset) const;
  // Asks the system to fetch a range that will be read soon.
  void will_need(int file, std::size_t n_bytes, std::uint64_t offset) const;
  // Closes a file that no pass needs any more; an Error if the file system of a network tells as
  // late as that of a full disk.
  void close(int file);

  // For the buffers of passes over these files.
  Spare& spare() const { return spare_; }

 private:
  struct Open {
    int fd;  // -1 when it is closed
    std::string path;
    std::atomic<int> direct_fd{kUnopened};
  };
  static constexpr int kUnopened = -2, kRefused = -1;
  int direct_fd(Open&) const;
  int add(int fd, const std::string& path);
  Open& at(int file) const {
    const std::shared_lock lock(mutex_);
    return *open_[static_cast<std::size_t>(file)];
  }

  mutable std::shared_mutex mutex_;  // of the list: it may grow while a pass reads
  std::vector<std::unique_ptr<Open>> open_;
  mutable Spare spare_;
};

}  // namespace tallies
