#include "stream/buffers.h"

#include <cstring>

namespace tallies {
namespace {

constexpr std::size_t kPage = 4096;

// Arrays of a tile lie so far beyond whole pages: else the same elements of all share the few
// places of the caches that their addresses allow. Twenty arrays were added in 0.71 ns an element,
// in whole pages in 0.86.
constexpr std::size_t kApart = 320;

constexpr std::size_t padded(std::size_t n_bytes) {
  return (n_bytes + kPage - 1) / kPage * kPage + kApart;
}

// Return the bytes of a worker's memory that a tile takes.
std::size_t buffer_bytes(const Job& job, const Tiling::Range& tile, std::vector<bool>& seen) {
  std::size_t n_bytes = 0;
  for (const Array& array : job.inputs)
    if (array.is_copied()) n_bytes += padded(array.bytes_to_read(tile.first, tile.n).n);
  seen.assign(job.n_rows(), false);
  for (const Output& output : job.outputs) {
    if (!seen[output.row]) n_bytes += padded(output.bytes(tile.first, tile.n).n);
    seen[output.row] = true;
  }
  return n_bytes;
}

std::unique_ptr<void, std::function<void(void*)>> take(const Files& files, std::size_t n_bytes,
                                                       const Memory& memory) {
  if (memory.allocate) return {memory.allocate(n_bytes), memory.release};
  return {files.spare().take(n_bytes), [&files](void* data) { files.spare().give_back(data); }};
}

// Reads the records of a tile of one array; memory in order is not copied but pointed to.
const void* fetch(const Read& read, const Array& array, std::uint64_t first, std::size_t n,
                  void* buffer) {
  if (!array.is_copied()) return address(array, first, n);
  array.for_each_stretch(
      array.bytes_to_read(first, n), [&](std::size_t at, std::size_t n_bytes, std::uint64_t from) {
        char* const to = static_cast<char*>(buffer) + at;
        if (from == kWhole)
          std::memset(to, 0, n_bytes);
        else if (array.file >= 0)
          read(array.file, to, n_bytes, array.offset + from);
        else
          std::memcpy(to, reinterpret_cast<const void*>(array.offset + from), n_bytes);
      });
  return buffer;
}

}  // namespace

Room room_for(const std::vector<Job>& jobs, const Tiling& tiling) {
  Room room;
  std::vector<bool> seen;
  for (std::size_t number = 0; number < tiling.n_tiles(); ++number) {
    const Tiling::Range tile = tiling.range(number);
    const Job& job = jobs[tile.job];
    room.n_bytes = std::max(room.n_bytes, buffer_bytes(job, tile, seen));
    room.n_inputs = std::max(room.n_inputs, job.inputs.size());
    room.n_rows = std::max(room.n_rows, job.n_rows());
  }
  return room;
}

Buffers::Buffers(const Files& files, const Room& room, const Memory& memory)
    : files_(files),
      memory_(take(files, room.n_bytes, memory)),
      in_(room.n_inputs),
      out_(room.n_rows) {}

void Buffers::read(const Job& job, const Tiling::Range& tile, const Read& read) {
  char* at = read_kept(job, tile);
  for (std::size_t i = 0; i < job.inputs.size(); ++i) {
    const Array& array = job.inputs[i];
    if (array.is_kept) continue;
    in_[i] = fetch(read, array, tile.first, tile.n, at);
    if (array.is_copied()) at += padded(array.bytes_to_read(tile.first, tile.n).n);
  }
  std::fill(out_.begin(), out_.end(), nullptr);
  for (const Output& output : job.outputs)
    if (output.file < 0) out_[output.row] = const_cast<void*>(address(output, tile.first, tile.n));
  for (const Output& output : job.outputs) {
    if (out_[output.row] != nullptr) continue;
    out_[output.row] = at;
    at += padded(output.bytes(tile.first, tile.n).n);
  }
}

// Reads what the tiles before have not left here. Returns the address of the rest of the memory.
char* Buffers::read_kept(const Job& job, const Tiling::Range& tile) {
  char* at = static_cast<char*>(memory_.get());
  std::size_t n_kept = 0;
  for (std::size_t i = 0; i < job.inputs.size(); ++i) {
    const Array& array = job.inputs[i];
    if (!array.is_kept) continue;
    const Bytes bytes = array.bytes_to_read(tile.first, tile.n);
    const Kept wanted{array.file, array.offset + bytes.first, bytes.n};
    in_[i] = array.file < 0 ? address(array, tile.first, tile.n) : at;
    if (array.file < 0 || bytes.n == 0) continue;
    if (n_kept == kept_.size() || kept_[n_kept] != wanted) {
      kept_.resize(n_kept);  // the others lie where they lie only behind the same ones
      files_.read(wanted.file, at, wanted.n_bytes, wanted.offset);
      kept_.push_back(wanted);
    }
    ++n_kept;
    at += padded(bytes.n);
  }
  kept_.resize(n_kept);
  return at;
}

void Buffers::write(const Job& job, const Tiling::Range& tile) const {
  for (const Output& output : job.outputs) {
    if (output.file < 0) continue;
    const Bytes bytes = output.bytes(tile.first, tile.n);
    files_.write(output.file, out_[output.row], bytes.n, output.offset + bytes.first);
  }
}

}  // namespace tallies
