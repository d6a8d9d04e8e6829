#include "stream/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "core/float_env.h"

namespace tallies {
namespace {

// A thread ends when so many others wait for work.
constexpr std::size_t kMostIdle = 64;

// Kernels have up to half of it in arrays; some systems give threads an eighth of it.
constexpr std::size_t kLeastStack = std::size_t(1) << 20;

bool start_thread(void* (*body)(void*), void* argument) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  std::size_t n_bytes = 0;
  pthread_attr_getstacksize(&attributes, &n_bytes);
  if (n_bytes < kLeastStack) pthread_attr_setstacksize(&attributes, kLeastStack);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const bool is_started = pthread_create(&thread, &attributes, body, argument) == 0;
  pthread_attr_destroy(&attributes);
  return is_started;
}

}  // namespace

// A thread of the pool, and whose call it is to make.
struct Threads::Hand {
  std::condition_variable woken;
  Threads* threads = nullptr;  // none while it waits
  int worker = 0;
};

// Never destroyed: threads wait in it until the process ends. A forked process has none of them.
struct Threads::Pool {
  std::mutex mutex;
  std::vector<Hand*> idle;

  static Pool& get() {
    static Pool* const pool = start();
    return *pool;
  }

  // Finds a waiting thread, or starts one. Returns null if the system starts no other.
  Hand* take(Threads& threads, int worker) {
    if (!idle.empty()) {
      Hand* const hand = idle.back();
      idle.pop_back();
      hand->threads = &threads;
      hand->worker = worker;
      hand->woken.notify_one();
      return hand;
    }
    auto fresh = std::make_unique<Hand>();
    fresh->threads = &threads;
    fresh->worker = worker;
    return start_thread(&serve, fresh.get()) ? fresh.release() : nullptr;
  }

 private:
  static Pool* start() {
    static Pool* pool;
    pool = new Pool;
    pool->idle.reserve(kMostIdle);
    pthread_atfork([] { pool->mutex.lock(); }, [] { pool->mutex.unlock(); },
                   [] {
                     pool->idle.clear();
                     pool->mutex.unlock();
                   });
    return pool;
  }

  static void* serve(void* given) {
    const std::unique_ptr<Hand> hand(static_cast<Hand*>(given));
    Pool& pool = get();
    for (std::unique_lock lock(pool.mutex);;) {
      hand->woken.wait(lock, [&] { return hand->threads != nullptr; });
      Threads& threads = *hand->threads;
      const int worker = hand->worker;
      std::erase(threads.unbegun_, hand.get());
      lock.unlock();
      std::exception_ptr error = threads.call(worker);
      lock.lock();
      if (error && !threads.error_) threads.error_ = std::move(error);
      if (--threads.n_left_ == 0) threads.ended_.notify_one();
      hand->threads = nullptr;
      if (pool.idle.size() == kMostIdle) return nullptr;
      pool.idle.push_back(hand.get());
    }
  }
};

Threads::Threads(int n_threads, std::function<void(int)> work) : work_(std::move(work)) {
  if (n_threads < 1) return;
  Pool& pool = Pool::get();
  const std::lock_guard lock(pool.mutex);
  try {
    unbegun_.reserve(static_cast<std::size_t>(n_threads));
    for (; size_ < n_threads; ++size_) {
      Hand* const hand = pool.take(*this, size_);
      if (hand == nullptr) break;
      unbegun_.push_back(hand);
      ++n_left_;
    }
  } catch (const std::bad_alloc&) {
    return;  // goes on with those that started
  }
}

Threads::~Threads() { wait(); }

std::exception_ptr Threads::call(int worker) noexcept {
  const FloatEnvironment environment;
  try {
    work_(worker);
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

void Threads::recall() {
  if (size_ == 0) return;
  Pool& pool = Pool::get();
  const std::lock_guard lock(pool.mutex);
  while (!unbegun_.empty() && pool.idle.size() < kMostIdle) {
    unbegun_.back()->threads = nullptr;
    pool.idle.push_back(unbegun_.back());
    unbegun_.pop_back();
    --n_left_;
  }
}

void Threads::wait() {
  if (size_ == 0) return;
  std::unique_lock lock(Pool::get().mutex);
  ended_.wait(lock, [this] { return n_left_ == 0; });
}

void Threads::join() {
  wait();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void parallel_for(std::size_t n, int n_threads, const std::function<void(std::size_t)>& body) {
  const FloatEnvironment environment;
  if (n <= 1 || n_threads <= 1) {
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
  work();
  others.recall();
  others.join();
}

}  // namespace tallies
