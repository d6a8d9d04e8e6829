#include "stream/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace tallies {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(Error::Kind::storage, path + ": " + what + ": " + std::strerror(errno));
}

}  // namespace

Files::~Files() {
  for (const Open& file : open_) ::close(file.fd);
}

int Files::open_to_read(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(path, "cannot open for reading");
  open_.push_back({fd, path});
  return static_cast<int>(open_.size()) - 1;
}

int Files::open_to_write(const std::string& path, std::uint64_t n_bytes) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) fail(path, "cannot open for writing");
  open_.push_back({fd, path});
#ifdef __linux__
  // Reserving the extents first halves the time of the writes and finds a full disk now. Not
  // posix_fallocate, which writes zeros where the file system cannot reserve.
  if (n_bytes > 0 && ::fallocate(fd, 0, 0, static_cast<off_t>(n_bytes)) != 0 &&
      errno != EOPNOTSUPP && errno != ENOSYS)
    fail(path, "cannot reserve " + std::to_string(n_bytes) + " bytes");
#endif
  if (::ftruncate(fd, static_cast<off_t>(n_bytes)) != 0) fail(path, "cannot set the size");
  return static_cast<int>(open_.size()) - 1;
}

void Files::read(int file, void* to, std::size_t n_bytes, std::uint64_t offset) const {
  const Open& open = open_[static_cast<std::size_t>(file)];
  char* p = static_cast<char*>(to);
  while (n_bytes > 0) {
    const ssize_t got = ::pread(open.fd, p, n_bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(open.path, "cannot read at byte " + std::to_string(offset));
    if (got == 0)
      throw Error(Error::Kind::storage,
                  open.path + ": ends at byte " + std::to_string(offset) + ", " +
                      std::to_string(n_bytes) +
                      " more were there when it was opened; it was truncated while being read");
    p += got;
    offset += static_cast<std::uint64_t>(got);
    n_bytes -= static_cast<std::size_t>(got);
  }
}

void Files::write(int file, const void* from, std::size_t n_bytes, std::uint64_t offset) const {
  const Open& open = open_[static_cast<std::size_t>(file)];
  const char* p = static_cast<const char*>(from);
  while (n_bytes > 0) {
    const ssize_t put = ::pwrite(open.fd, p, n_bytes, static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail(open.path, "cannot write at byte " + std::to_string(offset));
    p += put;
    offset += static_cast<std::uint64_t>(put);
    n_bytes -= static_cast<std::size_t>(put);
  }
}

void Files::will_need(int file, std::size_t n_bytes, std::uint64_t offset) const {
#ifdef POSIX_FADV_WILLNEED
  ::posix_fadvise(open_[static_cast<std::size_t>(file)].fd, static_cast<off_t>(offset),
                  static_cast<off_t>(n_bytes), POSIX_FADV_WILLNEED);
#endif
}

void Files::sync(int file) const {
  const Open& open = open_[static_cast<std::size_t>(file)];
  if (::fsync(open.fd) != 0) fail(open.path, "cannot flush to disk");
}

}  // namespace tallies
