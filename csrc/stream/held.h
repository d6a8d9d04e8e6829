// Memory that keeps arrays of files between the passes over them, so that they are read once.
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "stream/tiling.h"

namespace tallies {

// The room for the bytes of one array. The first pass that goes through all of them fills it in the
// place of a buffer; those after it read from there.
struct Held {
  enum class State : std::uint8_t { empty, filling, full };
  char* data;
  std::size_t n_bytes;
  std::atomic<State> state = State::empty;
  std::atomic<std::size_t> n_filled = 0;
};

// The rooms for the arrays of some jobs, one piece of memory.
class HeldArrays {
 public:
  // Gives room to what lies in files of these jobs, job by job as long as so many bytes are enough,
  // and takes it from what other jobs alone have. The memory of the last time is used again if it
  // is enough. Returns the bytes of arrays that have room, of each of the jobs. `jobs` are those of
  // the last time, and any number behind them; only those that share an array are looked at.
  std::vector<std::size_t> hold(std::vector<Job>& jobs, const std::vector<std::size_t>& which,
                                std::size_t most_bytes);
  // Shares the rooms that there are with a job that has the same arrays.
  void join(Job& job) const;
  // The jobs whose arrays have room.
  const std::vector<std::size_t>& holding() const { return holding_; }

 private:
  using Key = std::tuple<int, std::uint64_t, std::size_t>;  // file, offset and bytes
  struct Free {
    void operator()(char* data) const;
  };
  struct Place {
    std::size_t job, input;
  };
  void find_places(const std::vector<Job>& jobs);

  std::unique_ptr<char, Free> memory_;
  std::size_t capacity_ = 0;
  std::map<Key, std::shared_ptr<Held>> rooms_;
  std::vector<std::size_t> holding_;
  std::map<Key, std::vector<Place>> places_;  // of each array, in the jobs so far
  std::size_t n_placed_ = 0;
};

// The jobs of one run: arrays that are held already lie in memory there, and those that the run
// goes through in whole are kept.
class HeldRun {
 public:
  explicit HeldRun(const std::vector<Job>& jobs);
  HeldRun(const HeldRun&) = delete;
  HeldRun& operator=(const HeldRun&) = delete;
  // Holds from now on the arrays that were read in whole.
  ~HeldRun();

  const std::vector<Job>& jobs() const { return copies_.empty() ? jobs_ : copies_; }

 private:
  const std::vector<Job>& jobs_;
  std::vector<Job> copies_;
  std::vector<std::shared_ptr<Held>> filling_;
};

}  // namespace tallies
