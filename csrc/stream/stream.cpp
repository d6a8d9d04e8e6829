#include "stream/stream.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace tallies {
namespace {

// Shorter reads cost more in calls than they gain in cache.
constexpr std::size_t kShortestRead = std::size_t(64) << 10;
// Of packed masks 1 MiB over all arrays would hold 7 KB each: packing 8 experts took 0.60 s, with
// these tiles 0.51, and unpacking 0.13 and 0.11.
constexpr std::size_t kPackedTileBytes = std::size_t(4) << 20;
// Reads slower than the page cache (bytes a second) turn on fetching ahead; asking costs a third
// of a cached read, so it is not done blindly.
constexpr double kCachedRate = 3e9;
constexpr std::size_t kAheadBytes = std::size_t(64) << 20;

using Buffer = std::unique_ptr<void, std::function<void(void*)>>;

std::size_t file_bytes(const Job& job, std::size_t n) {
  std::size_t n_bytes = 0;
  for (const Array& a : job.inputs) n_bytes += a.file >= 0 ? a.n_bytes(n) : 0;
  return n_bytes;
}

std::size_t moved_bytes(const Job& job, std::size_t n) {
  std::size_t n_bytes = 0;
  for (const Array& a : job.inputs) n_bytes += a.n_bytes(n);
  for (const Array& a : job.outputs) n_bytes += a.n_bytes(n);
  return n_bytes;
}

std::vector<std::size_t> all_of(const std::vector<Job>& jobs) {
  std::vector<std::size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), 0);
  return order;
}

constexpr std::size_t padded(std::size_t n_bytes) { return (n_bytes + 4095) / 4096 * 4096; }

// Bytes of a worker's buffer that a tile of n elements takes.
std::size_t buffer_bytes(const Job& job, std::size_t n) {
  std::size_t n_bytes = 0;
  for (const Array& a : job.inputs) n_bytes += a.file >= 0 ? padded(a.n_bytes(n)) : 0;
  std::vector<bool> seen(job.n_rows());
  for (const Output& output : job.outputs) {
    if (!seen[output.row]) n_bytes += padded(output.n_bytes(n));
    seen[output.row] = true;
  }
  return n_bytes;
}

class Run {
 public:
  Run(const Files& files, const std::vector<Job>& jobs, const Tiling& tiling, const Transform& body,
      const Memory& memory)
      : files_(files), jobs_(jobs), tiling_(tiling), body_(body), memory_(memory) {
    for (std::size_t tile = 0, last = ~std::size_t(0); tile < tiling.n_tiles(); ++tile) {
      const Tiling::Range range = tiling.range(tile);
      if (range.job == last) continue;
      last = range.job;
      largest_ = std::max(largest_, buffer_bytes(jobs[range.job], range.n));
      most_inputs_ = std::max(most_inputs_, jobs[range.job].inputs.size());
      most_rows_ = std::max(most_rows_, jobs[range.job].n_rows());
    }
  }

  void work(int worker) noexcept {
    try {
      const Buffer buffer(memory_.allocate(std::max<std::size_t>(largest_, 1)), memory_.release);
      std::vector<const void*> in(most_inputs_);
      std::vector<void*> out(most_rows_);
      while (!stop_.load(std::memory_order_relaxed)) {
        const std::size_t number = next_.fetch_add(1, std::memory_order_relaxed);
        if (number >= tiling_.n_tiles()) break;
        run_tile(number, worker, static_cast<char*>(buffer.get()), in, out);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      stop_ = true;
    }
    const std::lock_guard lock(mutex_);
    ++n_ended_;
    ended_.notify_one();
  }

  bool wait(int n_threads, const Progress& progress) {
    std::uint64_t reported = 0;
    std::unique_lock lock(mutex_);
    for (bool done = false; !done;) {
      done = ended_.wait_for(lock, std::chrono::milliseconds(50),
                             [&] { return n_ended_ == n_threads; });
      const std::uint64_t moved = moved_.load(std::memory_order_relaxed);
      lock.unlock();
      if (!progress(moved - reported)) interrupted_ = stop_ = true;
      reported = moved;
      lock.lock();
    }
    return !interrupted_;
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void run_tile(std::size_t number, int worker, char* buffer, std::vector<const void*>& in,
                std::vector<void*>& out) {
    const Tiling::Range range = tiling_.range(number);
    const Job& job = jobs_[range.job];
    if (slow_.load(std::memory_order_relaxed)) fetch_ahead(number, range, job);
    const auto start = std::chrono::steady_clock::now();
    char* at = buffer;
    for (std::size_t i = 0; i < job.inputs.size(); ++i) {
      in[i] = fetch(files_, job.inputs[i], range.first, range.n, at);
      if (job.inputs[i].file >= 0) at += padded(job.inputs[i].n_bytes(range.n));
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double n_read = static_cast<double>(file_bytes(job, range.n));
    if (n_read > 1e5) slow_.store(n_read < seconds * kCachedRate, std::memory_order_relaxed);

    std::fill(out.begin(), out.end(), nullptr);
    for (const Output& output : job.outputs)
      if (output.file < 0) out[output.row] = reinterpret_cast<char*>(output.at(range.first));
    for (const Output& output : job.outputs) {
      if (out[output.row] != nullptr) continue;
      out[output.row] = at;
      at += padded(output.n_bytes(range.n));
    }
    body_({range.job, range.first, range.n, in.data(), out.data(), worker, number});
    for (const Output& output : job.outputs)
      if (output.file >= 0)
        files_.write(output.file, out[output.row], output.n_bytes(range.n), output.at(range.first));
    moved_.fetch_add(moved_bytes(job, range.n), std::memory_order_relaxed);
  }

  void fetch_ahead(std::size_t number, const Tiling::Range& now, const Job& job) {
    const std::size_t ahead = std::max<std::size_t>(1, kAheadBytes / (file_bytes(job, now.n) + 1));
    if (number + ahead >= tiling_.n_tiles()) return;
    const Tiling::Range later = tiling_.range(number + ahead);
    for (const Array& a : jobs_[later.job].inputs)
      if (a.file >= 0) files_.will_need(a.file, a.n_bytes(later.n), a.at(later.first));
  }

  const Files& files_;
  const std::vector<Job>& jobs_;
  const Tiling& tiling_;
  const Transform& body_;
  const Memory& memory_;
  std::size_t largest_ = 0, most_inputs_ = 0, most_rows_ = 1;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> moved_{0};
  std::atomic<bool> stop_{false}, slow_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  int n_ended_ = 0;
  bool interrupted_ = false;
  std::exception_ptr error_;
};

}  // namespace

std::size_t Job::n_rows() const {
  std::size_t n = 0;
  for (const Output& output : outputs) n = std::max(n, output.row + 1);
  return n;
}

Tiling::Tiling(const std::vector<Job>& jobs, const std::vector<std::size_t>& order,
               const Limits& limits)
    : jobs_(jobs), order_(order), first_tile_{0} {
  for (const std::size_t index : order) {
    const Job& job = jobs[index];
    const std::size_t n_arrays = job.inputs.size() + job.outputs.size();
    const auto is_packed = [](const Array& array) { return array.element_bits < 8; };
    const bool packed =
        std::ranges::any_of(job.inputs, is_packed) || std::ranges::any_of(job.outputs, is_packed);
    const std::size_t room =
        std::min(limits.buffer_bytes,
                 std::max(packed ? kPackedTileBytes : limits.tile_bytes, n_arrays * kShortestRead));
    // Memory takes no buffer, but its tiles should fit the cache as well.
    const std::size_t per_grain = std::max<std::size_t>(moved_bytes(job, job.grain), 1);
    const std::size_t n = std::max<std::size_t>(room / per_grain, 1) * job.grain;
    tile_elements_.push_back(n);
    first_tile_.push_back(first_tile_.back() +
                          static_cast<std::size_t>((job.n_elements + n - 1) / n));
    max_elements_ = std::max(max_elements_,
                             static_cast<std::size_t>(std::min<std::uint64_t>(n, job.n_elements)));
  }
}

Tiling::Tiling(const std::vector<Job>& jobs, const Limits& limits)
    : Tiling(jobs, all_of(jobs), limits) {}

Tiling::Range Tiling::range(std::size_t tile) const {
  const auto after = std::upper_bound(first_tile_.begin(), first_tile_.end(), tile);
  const auto i = static_cast<std::size_t>(after - first_tile_.begin()) - 1;
  const std::uint64_t n = tile_elements_[i];
  const std::uint64_t before = (tile - first_tile_[i]) * n;
  const Job& job = jobs_[order_[i]];
  return {order_[i], job.first + before,
          static_cast<std::size_t>(std::min(n, job.n_elements - before))};
}

void parallel_for(std::size_t n, int n_threads, const std::function<void(std::size_t)>& body) {
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < n; i = next++) body(i);
  };
  std::vector<std::thread> threads;
  for (std::size_t t = 1; t < std::min(n, static_cast<std::size_t>(n_threads)); ++t)
    threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

int default_threads() {
#ifdef __linux__
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

const void* fetch(const Files& files, const Array& array, std::uint64_t first, std::size_t n,
                  void* buffer) {
  if (array.file < 0) return reinterpret_cast<const void*>(array.at(first));
  files.read(array.file, buffer, array.n_bytes(n), array.at(first));
  return buffer;
}

Memory heap() {
  constexpr std::align_val_t page{4096};
  return {[](std::size_t n_bytes) { return ::operator new[](n_bytes, page); },
          [](void* p) { ::operator delete[](p, page); }};
}

bool stream(const Files& files, const std::vector<Job>& jobs, const Tiling& tiling,
            const Limits& limits, const Transform& body, const Progress& progress,
            const Memory& memory) {
  if (tiling.n_tiles() == 0) return true;
  Run run(files, jobs, tiling, body, memory);
  const int n_threads = static_cast<int>(
      std::min<std::size_t>(static_cast<std::size_t>(limits.n_threads), tiling.n_tiles()));
  std::vector<std::thread> threads;
  for (int worker = 0; worker < n_threads; ++worker)
    threads.emplace_back([&run, worker] { run.work(worker); });
  const bool finished = run.wait(n_threads, progress);
  for (std::thread& thread : threads) thread.join();
  run.rethrow();
  return finished;
}

}  // namespace tallies
