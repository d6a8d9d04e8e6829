#include "stream/held.h"

#include <algorithm>
#include <new>

#include "stream/buffers.h"
#include "stream/pages.h"

namespace tallies {
namespace {

constexpr std::align_val_t kPage{4096};

// Returns whether the tiles of a run read each byte of an array once.
bool can_hold(const Array& array) {
  return array.file >= 0 && array.per == 1 && array.record_bits >= 8 && !array.is_sparse() &&
         !array.is_kept && !array.rows && array.before == 0 && array.begin == 0 &&
         array.end == kWhole;
}

std::size_t bytes_of(const Job& job) {
  std::size_t n_bytes = 0;
  for (const Array& array : job.inputs)
    if (can_hold(array)) n_bytes += bytes_apart(array.bytes(0, job.n_elements).n);
  return n_bytes;
}

}  // namespace

void HeldArrays::Free::operator()(char* data) const { ::operator delete[](data, kPage); }

std::vector<std::size_t> HeldArrays::hold(std::vector<Job>& jobs,
                                          const std::vector<std::size_t>& which,
                                          std::size_t most_bytes) {
  find_places(jobs);
  const auto share = [&](const Key& key, const std::shared_ptr<Held>& room) {
    for (const Place& place : places_[key]) jobs[place.job].inputs[place.input].held = room;
  };
  for (const auto& [key, room] : rooms_) share(key, nullptr);
  rooms_.clear();
  holding_.clear();
  std::vector<std::size_t> fitting(which.size());
  std::size_t n_all = 0;
  for (std::size_t i = 0; i < which.size(); ++i) {
    const std::size_t n_bytes = bytes_of(jobs[which[i]]);
    if (n_bytes > most_bytes - n_all) continue;
    fitting[i] = n_bytes;
    n_all += n_bytes;
  }
  if (n_all > capacity_ || n_all == 0) {
    memory_ = nullptr;
    capacity_ = 0;
  }
  std::vector<std::size_t> held(which.size());
  if (n_all == 0) return held;
  if (memory_ == nullptr) {
    memory_.reset(static_cast<char*>(::operator new[](n_all, kPage)));
    capacity_ = n_all;
    prefer_huge_pages(memory_.get(), capacity_);
  }
  char* at = memory_.get();
  for (std::size_t i = 0; i < which.size(); ++i) {
    const Job& job = jobs[which[i]];
    for (const Array& array : job.inputs) {
      if (fitting[i] == 0 || !can_hold(array)) continue;
      const std::size_t n_bytes = array.bytes(0, job.n_elements).n;
      std::shared_ptr<Held>& room = rooms_[{array.file, array.offset, n_bytes}];
      if (!room) {
        room = std::make_shared<Held>(at, n_bytes);
        at += bytes_apart(n_bytes);
      }
      held[i] += n_bytes;
    }
    if (held[i] > 0) holding_.push_back(which[i]);
  }
  for (const auto& [key, room] : rooms_) share(key, room);
  return held;
}

void HeldArrays::find_places(const std::vector<Job>& jobs) {
  for (; n_placed_ < jobs.size(); ++n_placed_) {
    const Job& job = jobs[n_placed_];
    for (std::size_t i = 0; i < job.inputs.size(); ++i) {
      const Array& array = job.inputs[i];
      if (can_hold(array))
        places_[{array.file, array.offset, array.bytes(0, job.n_elements).n}].push_back(
            {n_placed_, i});
    }
  }
}

void HeldArrays::join(Job& job) const {
  for (Array& array : job.inputs) {
    array.held = nullptr;
    if (rooms_.empty() || !can_hold(array)) continue;
    const auto found = rooms_.find({array.file, array.offset, array.bytes(0, job.n_elements).n});
    if (found != rooms_.end()) array.held = found->second;
  }
}

HeldRun::HeldRun(const std::vector<Job>& jobs) : jobs_(jobs) {
  const auto is_held = [](const Array& array) { return array.held != nullptr; };
  if (!std::ranges::any_of(
          jobs, [&](const Job& job) { return std::ranges::any_of(job.inputs, is_held); }))
    return;
  copies_ = jobs;
  for (Job& job : copies_)
    for (Array& array : job.inputs) {
      if (array.held == nullptr) continue;
      Held& held = *array.held;
      if (held.state == Held::State::full) {
        array.file = -1;
        array.offset = reinterpret_cast<std::uint64_t>(held.data);
        array.held = nullptr;
        continue;
      }
      Held::State empty = Held::State::empty;
      const bool is_whole = array.bytes(job.first, job.n_elements).n == held.n_bytes;
      if (is_whole && held.state.compare_exchange_strong(empty, Held::State::filling)) {
        held.n_filled = 0;
        filling_.push_back(array.held);
      } else {
        array.held = nullptr;
      }
    }
}

HeldRun::~HeldRun() {
  for (const std::shared_ptr<Held>& one : filling_)
    one->state = one->n_filled == one->n_bytes ? Held::State::full : Held::State::empty;
}

}  // namespace tallies
