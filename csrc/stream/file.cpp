#include "stream/file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace tallies {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(Error::Kind::storage, path + ": " + what + ": " + std::strerror(errno));
}

// Slower reads of so many bytes were not of the page cache, where the system does not tell.
constexpr double kCachedRate = 3e9;
constexpr std::size_t kWorthTiming = 100'000;

// The number of the system call, of Linux 6.5, on all architectures but alpha.
constexpr long kCachestat = 451;

// Reads what the page cache has without a wait. Returns the bytes read; -1 if the system cannot.
ssize_t read_cached(int fd, void* to, std::size_t n_bytes, std::uint64_t offset) {
#ifdef RWF_NOWAIT
  const iovec part{to, n_bytes};
  const ssize_t got = ::preadv2(fd, &part, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  if (got >= 0) return got;
  return errno == EAGAIN || errno == EINTR ? 0 : -1;
#else
  return -1;
#endif
}

// Calls the system again where a signal has interrupted the call.
template <class Call>
auto uninterrupted(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace

Files::~Files() {
  for (const auto& file : open_) {
    if (file->fd >= 0) ::close(file->fd);
    if (const int direct = file->direct_fd; direct >= 0) ::close(direct);
  }
}

int Files::add(int fd, const std::string& path) {
  const std::unique_lock lock(mutex_);
  open_.push_back(std::make_unique<Open>(fd, path));
  return static_cast<int>(open_.size()) - 1;
}

int Files::open_to_read(const std::string& path) {
  const int fd = uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
  if (fd < 0) fail(path, "cannot open for reading");
  return add(fd, path);
}

int Files::open_to_write(const std::string& path, std::uint64_t n_bytes) {
  const int fd =
      uninterrupted([&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666); });
  if (fd < 0) fail(path, "cannot open for writing");
  const int file = add(fd, path);
  const auto size = static_cast<off_t>(n_bytes);
#ifdef __linux__
  // Reserving the extents first halves the time of the writes and finds a full disk now. Not
  // posix_fallocate, which writes zeros where the file system cannot reserve.
  if (n_bytes > 0 && uninterrupted([&] { return ::fallocate(fd, 0, 0, size); }) != 0 &&
      errno != EOPNOTSUPP && errno != ENOSYS)
    fail(path, "cannot reserve " + std::to_string(n_bytes) + " bytes");
#endif
  if (uninterrupted([&] { return ::ftruncate(fd, size); }) != 0) fail(path, "cannot set the size");
  return file;
}

bool Files::read(int file, void* to, std::size_t n_bytes, std::uint64_t offset) const {
  const Open& open = at(file);
  char* p = static_cast<char*>(to);
  const std::size_t n_asked = n_bytes;
  const auto start = std::chrono::steady_clock::now();
  const auto took = [&](ssize_t got) {
    p += got;
    offset += static_cast<std::uint64_t>(got);
    n_bytes -= static_cast<std::size_t>(got);
  };
  const ssize_t at_once = read_cached(open.fd, p, n_bytes, offset);
  if (at_once > 0) took(at_once);
  const bool was_cached = n_bytes == 0;
  while (n_bytes > 0) {
    const ssize_t got =
        uninterrupted([&] { return ::pread(open.fd, p, n_bytes, static_cast<off_t>(offset)); });
    if (got < 0) fail(open.path, "cannot read at byte " + std::to_string(offset));
    if (got == 0)
      throw Error(Error::Kind::storage,
                  open.path + ": ends at byte " + std::to_string(offset) + ", " +
                      std::to_string(n_bytes) +
                      " more were there when it was opened; it was truncated while being read");
    took(got);
  }
  if (at_once >= 0 || n_asked < kWorthTiming) return was_cached || at_once < 0;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(n_asked) >= seconds.count() * kCachedRate;
}

// Opens the file a second time, to be read past the page cache.
int Files::direct_fd(Open& open) const {
  if (const int known = open.direct_fd; known != kUnopened) return known;
  int fd = kRefused;
#ifdef O_DIRECT
  // The path may name another file by now, and the last descriptors are not for this.
  constexpr rlim_t kLeft = 32;
  struct stat then, now;
  rlimit allowed;
  fd = uninterrupted([&] { return ::open(open.path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC); });
  const bool is_good = fd >= 0 && ::fstat(open.fd, &then) == 0 && ::fstat(fd, &now) == 0 &&
                       S_ISREG(now.st_mode) && then.st_dev == now.st_dev &&
                       then.st_ino == now.st_ino && ::getrlimit(RLIMIT_NOFILE, &allowed) == 0 &&
                       static_cast<rlim_t>(fd) + kLeft < allowed.rlim_cur;
  if (fd >= 0 && !is_good) {
    ::close(fd);
    fd = kRefused;
  }
#endif
  int before = kUnopened;
  if (open.direct_fd.compare_exchange_strong(before, fd)) return fd;
  if (fd >= 0) ::close(fd);
  return before;
}

bool Files::read_direct(int file, void* to, std::size_t n_bytes, std::size_t n_needed,
                        std::uint64_t offset) const {
  Open& open = at(file);
  const int fd = direct_fd(open);
  if (fd < 0) return false;
  std::size_t n = 0;
  while (n < n_needed) {
    const ssize_t got = uninterrupted([&] {
      return ::pread(fd, static_cast<char*>(to) + n, n_bytes - n, static_cast<off_t>(offset + n));
    });
    if (got <= 0) return false;
    // The end of the file is the only place where a read may stop between units.
    n += static_cast<std::size_t>(got);
    if (n % kDirectUnit != 0 && n < n_needed) return false;
  }
  return true;
}

bool Files::is_cached(int file, std::size_t n_bytes, std::uint64_t offset) const {
#ifdef __linux__
  // Not a read without waiting: that would make the system fetch what it misses.
  std::uint64_t range[2] = {offset, n_bytes}, found[5];
  const std::uint64_t page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const int fd = at(file).fd;
  return ::syscall(kCachestat, fd, range, found, 0) == 0 &&
         found[0] == (offset + n_bytes - 1) / page - offset / page + 1;
#else
  return false;
#endif
}

void Files::write(int file, const void* from, std::size_t n_bytes, std::uint64_t offset) const {
  const Open& open = at(file);
  const char* p = static_cast<const char*>(from);
  while (n_bytes > 0) {
    const ssize_t put =
        uninterrupted([&] { return ::pwrite(open.fd, p, n_bytes, static_cast<off_t>(offset)); });
    if (put < 0) fail(open.path, "cannot write at byte " + std::to_string(offset));
    p += put;
    offset += static_cast<std::uint64_t>(put);
    n_bytes -= static_cast<std::size_t>(put);
  }
}

void Files::will_need(int file, std::size_t n_bytes, std::uint64_t offset) const {
#ifdef POSIX_FADV_WILLNEED
  ::posix_fadvise(at(file).fd, static_cast<off_t>(offset), static_cast<off_t>(n_bytes),
                  POSIX_FADV_WILLNEED);
#endif
}

void Files::close(int file) {
  Open& open = at(file);
  const int fd = std::exchange(open.fd, -1);
  // Linux has closed the file even where a signal interrupts the call.
  if (fd >= 0 && ::close(fd) != 0 && errno != EINTR) fail(open.path, "cannot be closed");
}

}  // namespace tallies
