#include "stream/spare.h"

#include <algorithm>
#include <new>

namespace tallies {
namespace {

constexpr std::align_val_t kPage{4096};

}  // namespace

Spare::~Spare() {
  for (const Piece& piece : pieces_) ::operator delete[](piece.data, kPage);
}

void* Spare::take(std::size_t n_bytes) {
  const std::lock_guard lock(mutex_);
  const auto is_free = [](const Piece& piece) { return !piece.in_use; };
  auto found = std::ranges::find_if(
      pieces_, [&](const Piece& piece) { return is_free(piece) && piece.n_bytes >= n_bytes; });
  if (found == pieces_.end()) {
    // One that is too small makes room.
    if (const auto small = std::ranges::find_if(pieces_, is_free); small != pieces_.end()) {
      ::operator delete[](small->data, kPage);
      pieces_.erase(small);
    }
    pieces_.reserve(pieces_.size() + 1);
    void* const data = ::operator new[](n_bytes, kPage);
    found = pieces_.insert(pieces_.end(), {data, n_bytes, false});
  }
  found->in_use = true;
  return found->data;
}

void Spare::give_back(void* data) noexcept {
  const std::lock_guard lock(mutex_);
  std::ranges::find(pieces_, data, &Piece::data)->in_use = false;
}

}  // namespace tallies
