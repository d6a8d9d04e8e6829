// Threads that share one piece of work, in the floating-point environment of the kernels.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tallies {

// Counts the cores that this process may use: the threads for those who do not choose.
int default_threads();

// Runs work(0), work(1) and so on in a thread each.
class Threads {
 public:
  // Starts as many of n_threads as the system allows, perhaps none.
  Threads(int n_threads, std::function<void(int)> work);
  // Waits for all.
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int size() const { return static_cast<int>(threads_.size()); }
  // Waits for all, and throws the first exception that left `work`.
  void join();

 private:
  std::function<void(int)> work_;
  std::mutex mutex_;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

// Calls body(i) for each i below n, from the calling thread and up to n_threads - 1 others. Throws
// the first exception of a body after all threads have ended; no further i is begun after it.
void parallel_for(std::size_t n, int n_threads, const std::function<void(std::size_t)>& body);

}  // namespace tallies
