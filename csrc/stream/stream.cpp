#include "stream/stream.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>

#include "stream/ahead.h"
#include "stream/held.h"
#include "stream/threads.h"

namespace tallies {
namespace {

constexpr std::chrono::milliseconds kReportEvery{50};

class Run {
 public:
  Run(const Files& files, const std::vector<Job>& jobs, const Tiling& tiling, const Transform& body,
      const Limits& limits, const Memory& memory)
      : files_(files),
        jobs_(jobs),
        tiling_(tiling),
        body_(body),
        memory_(memory),
        room_(room_for(jobs, tiling)),
        ahead_(files, jobs, tiling, limits) {}

  void work(int worker) noexcept {
    try {
      Buffers buffers(files_, room_, memory_);
      while (!stop_.load(std::memory_order_relaxed)) {
        const std::size_t number = next_.fetch_add(1, std::memory_order_relaxed);
        if (number >= tiling_.n_tiles()) break;
        run_tile(number, worker, buffers);
        if (alone_ != nullptr && std::chrono::steady_clock::now() >= report_at_) report(*alone_);
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

  // Waits until so many workers have ended.
  bool wait(int n_threads, const Progress& progress) {
    std::unique_lock lock(mutex_);
    for (bool done = false; !done;) {
      done = ended_.wait_for(lock, kReportEvery, [&] { return n_ended_ == n_threads; });
      lock.unlock();
      report(progress);
      lock.lock();
    }
    return !interrupted_;
  }

  // Runs all tiles in the calling thread.
  bool work_alone(const Progress& progress) {
    alone_ = &progress;
    work(0);
    return wait(1, progress);
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void run_tile(std::size_t number, int worker, Buffers& buffers) {
    const Tiling::Range range = tiling_.range(number);
    const Job& job = jobs_[range.job];
    ahead_.read(number, job, range, buffers);
    body_({range.job, range.first, range.n, buffers.in(), buffers.out(), worker, number});
    buffers.write(job, range);
    moved_.fetch_add(job.moved_bytes(range.first, range.n), std::memory_order_relaxed);
  }

  void report(const Progress& progress) {
    const std::uint64_t moved = moved_.load(std::memory_order_relaxed);
    if (!progress(moved - reported_)) interrupted_ = stop_ = true;
    reported_ = moved;
    report_at_ = std::chrono::steady_clock::now() + kReportEvery;
  }

  const Files& files_;
  const std::vector<Job>& jobs_;
  const Tiling& tiling_;
  const Transform& body_;
  const Memory& memory_;
  const Room room_;
  Ahead ahead_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> moved_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  int n_ended_ = 0;
  bool interrupted_ = false;
  // For the calling thread only.
  const Progress* alone_ = nullptr;
  std::uint64_t reported_ = 0;
  std::chrono::steady_clock::time_point report_at_{};
  std::exception_ptr error_;
};

}  // namespace

bool stream(const Files& files, const std::vector<Job>& jobs, const Tiling& tiling,
            const Limits& limits, const Transform& body, const Progress& progress,
            const Memory& memory) {
  if (tiling.n_tiles() == 0) return true;
  const HeldRun held(jobs);
  Run run(files, held.jobs(), tiling, body, limits, memory);
  std::size_t n_bytes = 0;
  for (const Job& job : jobs)
    if (limits.worth_bytes > 0) n_bytes += job.moved_bytes(job.first, job.n_elements);
  const int n_threads = static_cast<int>(std::min<std::size_t>(
      static_cast<std::size_t>(limits.threads_for(n_bytes)), tiling.n_tiles()));
  if (limits.worth_bytes > 0 && n_threads == 1) {
    const bool finished = run.work_alone(progress);
    run.rethrow();
    return finished;
  }
  Threads threads(n_threads, [&run](int worker) { run.work(worker); });
  const bool finished =
      threads.size() > 0 ? run.wait(threads.size(), progress) : run.work_alone(progress);
  threads.join();
  run.rethrow();
  return finished;
}

}  // namespace tallies
