#include "stream/threads.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <utility>

#ifdef __linux__
#include <sched.h>
#endif

#include "core/float_env.h"

namespace tallies {

int default_threads() {
#ifdef __linux__
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

Threads::Threads(int n_threads, std::function<void(int)> work) : work_(std::move(work)) {
  const auto run = [this](int worker) noexcept {
    const FloatEnvironment environment;
    try {
      work_(worker);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  };
  try {
    threads_.reserve(static_cast<std::size_t>(std::max(n_threads, 0)));
    for (int worker = 0; worker < n_threads; ++worker) threads_.emplace_back(run, worker);
  } catch (const std::system_error&) {  // a limit of processes or of memory
  } catch (const std::bad_alloc&) {
  }
}

Threads::~Threads() {
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

void Threads::join() {
  for (std::thread& thread : threads_) thread.join();
  if (error_) std::rethrow_exception(error_);
}

void parallel_for(std::size_t n, int n_threads, const std::function<void(std::size_t)>& body) {
  if (n <= 1 || n_threads <= 1) {
    const FloatEnvironment environment;
    for (std::size_t i = 0; i < n; ++i) body(i);
    return;
  }
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < n; i = next++) body(i);
    } catch (...) {
      next = n;
      throw;
    }
  };
  const int n_others = static_cast<int>(std::min(n, static_cast<std::size_t>(n_threads))) - 1;
  Threads others(n_others, [&](int) { work(); });
  const FloatEnvironment environment;
  work();
  others.join();
}

}  // namespace tallies
