// streams FOLDER: adds arrays of files in passes of all kinds, some of them at once, and ends with
// 1 if a sum is wrong.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "stream/held.h"
#include "stream/stream.h"
#include "stream/threads.h"

namespace {

using namespace tallies;

constexpr std::size_t kSizes[] = {300'007, 1, 64, 150'000, 4097};
constexpr std::uint64_t kBits = 32;

std::size_t n_all() {
  std::size_t n = 0;
  for (const std::size_t size : kSizes) n += size;
  return n;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what);
  std::_Exit(1);
}

// Writes numbers that begin with `first` to a file.
void write_numbers(const std::string& path, std::uint32_t first) {
  std::vector<std::uint32_t> numbers(n_all());
  for (std::uint32_t& number : numbers) number = first++;
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(numbers.data()),
             static_cast<std::streamsize>(numbers.size() * sizeof numbers[0]));
  // Out of the page cache, so that there is something to read ahead.
  const int fd = ::open(path.c_str(), O_RDONLY);
  require(fd >= 0 && ::fsync(fd) == 0, "a file");
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

std::vector<Job> jobs_of(int a, int b, int out) {
  std::vector<Job> jobs;
  std::uint64_t at = 0;
  for (const std::size_t n : kSizes) {
    Job job{n, {Array{a, at, kBits}, Array{b, at, kBits}}, {}};
    if (out >= 0) job.outputs.push_back({Array{out, at, kBits}, 0});
    jobs.push_back(std::move(job));
    at += n * sizeof(std::uint32_t);
  }
  return jobs;
}

void add(const Tile& tile) {
  const auto* a = static_cast<const std::uint32_t*>(tile.in[0]);
  const auto* b = static_cast<const std::uint32_t*>(tile.in[1]);
  auto* out = static_cast<std::uint32_t*>(tile.out[0]);
  for (std::size_t i = 0; i < tile.n; ++i) out[i] = a[i] + b[i];
}

bool goes_on(std::uint64_t) { return true; }

void check_sums(const std::string& path) {
  std::vector<std::uint32_t> found(n_all());
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(found.data()),
            static_cast<std::streamsize>(found.size() * sizeof found[0]));
  for (std::uint32_t i = 0; i < found.size(); ++i) require(found[i] == 7 + 2 * i, "a sum");
}

// A merge: a pass that counts and holds what it reads, and one that writes.
void merge(const Files& files, const Limits& limits, int a, int b, int out) {
  std::vector<Job> counted = jobs_of(a, b, -1);
  HeldArrays held;
  held.hold(counted, {0, 2, 3}, std::size_t(8) << 20);
  std::atomic<std::uint64_t> n{0};
  const auto count = [&](const Tile& tile) { n += tile.n; };
  require(stream(files, counted, Tiling(counted, limits), limits, count, goes_on), "an end");
  require(n == n_all(), "a count");
  std::vector<Job> jobs = jobs_of(a, b, out);
  for (Job& job : jobs) held.join(job);
  require(stream(files, jobs, Tiling(jobs, limits), limits, add, goes_on), "an end");
}

// Passes that are stopped, or in which a tile cannot be made.
void fail(const Files& files, const Limits& limits, int a, int b) {
  const std::vector<Job> jobs = jobs_of(a, b, -1);
  const Tiling tiling(jobs, limits);
  bool is_thrown = false;
  try {
    const auto body = [](const Tile& tile) {
      if (tile.number == 3) throw std::runtime_error("tile");
    };
    stream(files, jobs, tiling, limits, body, goes_on);
  } catch (const std::runtime_error&) {
    is_thrown = true;
  }
  require(is_thrown, "an error of a tile");
  const auto slow = [](const Tile&) { std::this_thread::sleep_for(std::chrono::milliseconds(30)); };
  require(!stream(files, jobs, tiling, limits, slow, [](std::uint64_t) { return false; }),
          "a pass that is stopped");
}

void share_work(int n_threads) {
  std::vector<std::size_t> found(1000);
  std::atomic<int> n_errors{0};
  parallel_for(10, n_threads, [&](std::size_t i) {
    parallel_for(100, n_threads, [&](std::size_t j) { found[100 * i + j] = 100 * i + j; });
    try {
      parallel_for(50, n_threads, [&](std::size_t j) {
        if (j == i) throw std::runtime_error("body");
      });
    } catch (const std::runtime_error&) {
      ++n_errors;
    }
  });
  require(n_errors == 10, "errors of bodies");
  for (std::size_t i = 0; i < found.size(); ++i) require(found[i] == i, "shared work");
}

}  // namespace

int main(int, char** arguments) {
  const std::string folder = arguments[1];
  Files files;
  write_numbers(folder + "/a", 3);
  write_numbers(folder + "/b", 4);
  const int a = files.open_to_read(folder + "/a"), b = files.open_to_read(folder + "/b");
  for (const Io io : {Io::buffered, Io::direct, Io::direct_unless_cached})
    for (const int n_threads : {1, 2, 7}) {
      Limits limits{n_threads, std::size_t(1) << 20, std::size_t(1) << 16};
      limits.io = io;
      std::vector<std::thread> callers;
      for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&, caller] {
          const std::string path = folder + "/out" + std::to_string(caller);
          const int out = files.open_to_write(path, n_all() * sizeof(std::uint32_t));
          merge(files, limits, a, b, out);
          files.close(out);
          check_sums(path);
          share_work(n_threads);
        });
      for (std::thread& caller : callers) caller.join();
      fail(files, limits, a, b);
    }
}
