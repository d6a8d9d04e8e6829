// Threads that share one piece of work, in the floating-point environment of the kernels.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <vector>

namespace tallies {

// Runs work(0), work(1) and so on in a thread each. Threads come from one pool of the process and
// go back there: work that waits for other work has threads of its own, however many that takes.
class Threads {
 public:
  // Takes as many of n_threads as the system allows, perhaps none.
  Threads(int n_threads, std::function<void(int)> work);
  // Waits for all.
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int size() const { return size_; }
  // Takes back the calls of `work` that no thread has begun, where the others have done it all.
  void recall();
  // Waits for all, and throws the first exception that left `work`.
  void join();

 private:
  struct Pool;
  struct Hand;
  std::exception_ptr call(int worker) noexcept;
  void wait();

  const std::function<void(int)> work_;
  int size_ = 0;
  // Under the lock of the pool.
  std::size_t n_left_ = 0;      // calls that have not ended
  std::vector<Hand*> unbegun_;  // threads whose calls have not begun
  std::condition_variable ended_;
  std::exception_ptr error_;
};

// Calls body(i) for each i below n, from the calling thread and up to n_threads - 1 others. Throws
// the first exception of a body after all threads have ended; no further i is begun after it.
void parallel_for(std::size_t n, int n_threads, const std::function<void(std::size_t)>& body);

}  // namespace tallies
