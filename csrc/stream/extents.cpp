#include "stream/extents.h"

#include <utility>

#include "stream/file.h"

namespace tallies {

Extents::Extents(const std::vector<Job>& jobs, const Tiling& tiling, std::size_t block_bytes,
                 std::size_t first)
    : jobs_(jobs), tiling_(tiling), block_bytes_(block_bytes), first_(first), next_(first) {
  tiles_.resize(tiling.n_tiles() - std::min(first, tiling.n_tiles()));
}

void Extents::plan(std::size_t n_bytes) {
  while (n_planned_ < n_bytes && next_ < tiling_.n_tiles()) plan_tile();
}

std::vector<Piece> Extents::take(std::size_t tile) {
  while (next_ <= tile) plan_tile();
  Pieces& taken = tiles_[tile - first_];
  n_planned_ -= std::exchange(taken.n_bytes, 0);
  return std::move(taken.pieces);
}

void Extents::plan_tile() {
  const Tiling::Range range = tiling_.range(next_);
  Pieces& tile = tiles_[next_ - first_];
  const std::vector<Array>& inputs = jobs_[range.job].inputs;
  last_.resize(std::max(last_.size(), inputs.size()));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Array& array = inputs[i];
    if (array.file < 0 || array.is_kept) continue;
    array.for_each_stretch(array.bytes_to_read(range.first, range.n),
                           [&](std::size_t, std::size_t n, std::uint64_t from) {
                             if (from != kWhole) add(i, array.file, n, array.offset + from, tile);
                           });
  }
  n_planned_ += tile.n_bytes;
  ++next_;
}

// Goes on with the last extent of the input, or begins others, one for each block.
void Extents::add(std::size_t input, int file, std::size_t n_bytes, std::uint64_t offset,
                  Pieces& tile) {
  for (std::size_t n; n_bytes > 0; n_bytes -= n, offset += n) {
    const std::uint64_t block_end = (offset / block_bytes_ + 1) * block_bytes_;
    n = static_cast<std::size_t>(std::min<std::uint64_t>(n_bytes, block_end - offset));
    std::shared_ptr<Extent>& last = last_[input];
    const bool goes_on = last && last->state == Extent::State::planned && last->file == file &&
                         last->end == offset && offset % block_bytes_ != 0;
    if (!goes_on) {
      last = std::make_shared<Extent>(Extent{file, offset, offset});
      to_read_.push_back(last);
      tile.n_bytes += kDirectUnit;
    }
    last->end += n;
    last->n_left += n;
    tile.n_bytes += n;
    tile.pieces.push_back({last, offset, n});
  }
}

}  // namespace tallies
