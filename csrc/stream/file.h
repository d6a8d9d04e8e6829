// Open files, read and written by position from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "stream/spare.h"

namespace tallies {

class Files {
 public:
  Files() = default;
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  ~Files();

  int open_to_read(const std::string& path);
  // Creates the file with room for n_bytes, or opens the one that is there; never truncates.
  int open_to_write(const std::string& path, std::uint64_t n_bytes);

  int size() const { return static_cast<int>(open_.size()); }

  // All bytes or an Error that names the file.
  void read(int file, void* to, std::size_t n_bytes, std::uint64_t offset) const;
  void write(int file, const void* from, std::size_t n_bytes, std::uint64_t offset) const;
  // Asks the system to fetch a range that will be read soon.
  void will_need(int file, std::size_t n_bytes, std::uint64_t offset) const;
  void sync(int file) const;

  // For the buffers of passes over these files.
  Spare& spare() const { return spare_; }

 private:
  struct Open {
    int fd;
    std::string path;
  };
  std::vector<Open> open_;
  mutable Spare spare_;
};

}  // namespace tallies
