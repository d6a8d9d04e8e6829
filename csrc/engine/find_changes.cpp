// Tiles leave a mask and the values of what differs. When all of a slice are there, the layouts are
// weighed by exact counts, and the smallest is made.

#include "engine/find_changes.h"

#include <cstring>
#include <map>

#include "core/compared.h"
#include "core/error.h"
#include "engine/pass.h"
#include "engine/set_bits.h"

namespace tallies {
namespace {

// The changes of a tile.
struct Piece {
  std::vector<std::uint32_t> n_changed;  // of each block
  Blob mask, values;                     // empty where nothing differs
};

struct Scratch {
  std::vector<std::uint8_t> mask, values;
};

// A slice, and what tiles have found of it.
struct Finding {
  std::uint64_t n_left = 0;              // elements of tiles to come
  std::map<std::uint64_t, Piece> tiles;  // by the first element, counted from the slice's
  FoundChanges found;
};

Blob copy_of(const std::vector<std::uint8_t>& from, std::size_t n) {
  Blob blob(n);
  std::memcpy(blob.data(), from.data(), n);
  return blob;
}

// Elements of both tensors that are compared, and counted by their fingerprints, while they are in
// the first-level cache.
std::size_t chunk_of(std::size_t unit) { return kComparedTogether / unit; }

// Finds what a tile's elements differ in, and adds their fingerprints.
Piece compact(const Tile& tile, const Job& job, Coding coding, Scratch& scratch, Lanes& before,
              Lanes& now) {
  const std::size_t unit = job.inputs[0].record_bits / 8, chunk = chunk_of(unit);
  scratch.mask.resize(std::max(scratch.mask.size(), (tile.n + 7) / 8));
  scratch.values.resize(std::max(scratch.values.size(), (tile.n + kListSlack) * unit));
  Piece piece;
  std::size_t n_changed = 0;
  for (std::size_t first = 0; first < tile.n; first += chunk) {
    const std::size_t n = std::min(chunk, tile.n - first);
    const void* const old_elements = static_cast<const char*>(tile.in[0]) + first * unit;
    const void* const new_elements = static_cast<const char*>(tile.in[1]) + first * unit;
    add(before, fingerprint(old_elements, job.inputs[0], tile.first + first, n));
    add(now, fingerprint(new_elements, job.inputs[1], tile.first + first, n));
    const std::size_t n_found = kernels().compact[by_size(unit)](
        {old_elements, new_elements, n, coding, scratch.mask.data() + first / 8,
         scratch.values.data() + n_changed * unit});
    if (first % kChangeBlock == 0) piece.n_changed.push_back(0);
    piece.n_changed.back() += static_cast<std::uint32_t>(n_found);
    n_changed += n_found;
  }
  if (n_changed == 0) return piece;
  piece.mask = copy_of(scratch.mask, (tile.n + 7) / 8);
  piece.values = copy_of(scratch.values, n_changed * unit);
  return piece;
}

// The changes of a slice as its tiles found them.
class Tiles {
 public:
  Tiles(const std::map<std::uint64_t, Piece>& tiles, std::uint64_t n_elements, std::size_t unit)
      : tiles_(tiles), n_elements_(n_elements), unit_(unit) {
    for (const auto& [first, piece] : tiles)
      for (const std::uint32_t n : piece.n_changed) n_changed_ += n;
  }

  std::uint64_t n_changed() const { return n_changed_; }
  std::uint64_t mask_bytes() const { return (n_elements_ + 7) / 8; }

  // Sets the ends of the values of each block.
  void end_values(std::vector<BlockEnds>& blocks) const {
    std::uint32_t end = 0;
    for (const auto& [first, piece] : tiles_)
      for (const std::uint32_t n : piece.n_changed) blocks.push_back({0, end += n});
  }

  Blob gaps(std::vector<BlockEnds>& blocks) const {
    Blob gaps(static_cast<std::size_t>(n_changed_ + n_elements_ / kLongGap));
    std::size_t end = 0;
    for_each_block([&](const Piece& piece, std::size_t number, std::size_t at, std::size_t n) {
      if (piece.mask.size() > 0)
        end += kernels().encode_gaps(piece.mask.data() + at / 8, n, gaps.data() + end);
      blocks[number].positions = static_cast<std::uint32_t>(end);
    });
    gaps.shrink(end);
    return gaps;
  }

  Blob mask(std::vector<BlockEnds>& blocks) const {
    Blob mask(static_cast<std::size_t>(mask_bytes()));
    std::size_t end = 0;
    for_each_block([&](const Piece& piece, std::size_t number, std::size_t at, std::size_t n) {
      const std::size_t n_bytes = (n + 7) / 8;
      if (piece.mask.size() > 0)
        std::memcpy(mask.data() + end, piece.mask.data() + at / 8, n_bytes);
      else
        std::memset(mask.data() + end, 0, n_bytes);
      blocks[number].positions = static_cast<std::uint32_t>(end += n_bytes);
    });
    return mask;
  }

  Blob values() const {
    Blob values(static_cast<std::size_t>(n_changed_) * unit_);
    std::size_t end = 0;
    for (const auto& [first, piece] : tiles_) {
      std::memcpy(values.data() + end, piece.values.data(), piece.values.size());
      end += piece.values.size();
    }
    return values;
  }

  // The values of all elements, zero where nothing differs.
  Blob dense_values() const {
    Blob values(static_cast<std::size_t>(n_elements_) * unit_);
    std::memset(values.data(), 0, values.size());
    for (const auto& [first, piece] : tiles_)
      if (piece.mask.size() > 0)
        kScatter[by_size(unit_)](piece.values.data(), piece.mask.data(), n_in(first),
                                 values.data() + first * unit_);
    return values;
  }

 private:
  std::size_t n_in(std::uint64_t first) const {
    const auto after = tiles_.upper_bound(first);
    return static_cast<std::size_t>((after == tiles_.end() ? n_elements_ : after->first) - first);
  }

  // Calls body(piece, number of the block, its first element in the piece, its elements).
  template <class Body>
  void for_each_block(const Body& body) const {
    std::size_t number = 0;
    for (const auto& [first, piece] : tiles_) {
      const std::size_t n = n_in(first);
      for (std::size_t at = 0; at < n; at += kChangeBlock)
        body(piece, number++, at, std::min(kChangeBlock, n - at));
    }
  }

  const std::map<std::uint64_t, Piece>& tiles_;
  const std::uint64_t n_elements_;
  const std::size_t unit_;
  std::uint64_t n_changed_ = 0;
};

// Reads the elements of a slice once more: where nothing differs, tiles have kept no values.
Blob read_again(const Files& files, const Array& array, const Slice& slice, const Lanes& expected) {
  const Bytes bytes = array.bytes(slice.first, slice.n_elements);
  Blob values(bytes.n);
  if (array.file >= 0)
    files.read(array.file, values.data(), bytes.n, array.offset + bytes.first);
  else
    std::memcpy(values.data(), reinterpret_cast<const char*>(array.offset) + bytes.first, bytes.n);
  if (fingerprint(values.data(), array, slice.first, static_cast<std::size_t>(slice.n_elements)) !=
      expected)
    throw Error(Error::Kind::storage,
                "a tensor changed while it was read; try again when nothing writes to it");
  return values;
}

// Makes the smallest layout of what the tiles of a slice have found.
void settle(const Plan& plan, const Slice& slice, std::size_t unit, Coding coding,
            Finding& finding) {
  FoundChanges& found = finding.found;
  const Tiles tiles(finding.tiles, slice.n_elements, unit);
  found.n_changed = tiles.n_changed();
  if (found.n_changed == 0) return;
  const std::uint64_t n_dense = slice.n_elements * unit;
  const std::uint64_t n_besides =
      found.n_changed * unit + n_blocks(slice.n_elements) * sizeof(BlockEnds);
  tiles.end_values(found.blocks);
  found.layout = n_besides + tiles.mask_bytes() <= n_dense ? Layout::mask : Layout::dense;
  const std::uint64_t n_best = std::min(n_besides + tiles.mask_bytes(), n_dense);
  // Gaps take a byte for each change at least.
  if (n_besides + found.n_changed <= n_best) {
    found.positions = tiles.gaps(found.blocks);
    if (n_besides + found.positions.size() <= n_best) found.layout = Layout::gaps;
  }
  if (found.layout == Layout::mask) found.positions = tiles.mask(found.blocks);
  if (found.layout != Layout::dense) {
    found.values = tiles.values();
    return;
  }
  found.positions = {};
  found.blocks.clear();
  found.values = coding == Coding::replacement
                     ? read_again(plan.files, plan.jobs[slice.job].inputs[1], slice, found.now)
                     : tiles.dense_values();
}

}  // namespace

std::vector<FoundChanges> find_changes(const Plan& plan, const std::vector<Slice>& slices,
                                       Coding coding, const Limits& limits,
                                       const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<Finding> begun;
  for (const Slice& slice : slices) {
    jobs.push_back(survey_of(plan, slice, kChangeBlock));
    begun.emplace_back().n_left = slice.n_elements;
  }
  Parts<Finding> parts(std::move(begun));
  for_each_tile<Scratch>(plan.files, jobs, Tiling(jobs, limits), limits, progress,
                         [&](const Tile& tile, Scratch& scratch) {
                           const Job& job = jobs[tile.job];
                           const Slice& slice = slices[tile.job];
                           const std::size_t unit = job.inputs[0].record_bits / 8;
                           Lanes before{}, now{};
                           Piece piece = compact(tile, job, coding, scratch, before, now);
                           parts.change(tile.job, [&](Finding& finding) {
                             add(finding.found.before, before);
                             add(finding.found.now, now);
                             finding.tiles.emplace(tile.first - slice.first, std::move(piece));
                             finding.n_left -= tile.n;
                             if (finding.n_left > 0) return;
                             settle(plan, slice, unit, coding, finding);
                             finding.tiles.clear();
                           });
                         });
  std::vector<FoundChanges> all;
  for (Finding& finding : parts.take()) all.push_back(std::move(finding.found));
  return all;
}

}  // namespace tallies
