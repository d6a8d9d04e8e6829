#include "engine/reader.h"

#include "cpu/ops.h"

namespace tallies {
namespace {

const void* stored_at(const Tile& tile, const Source& source, std::size_t element) {
  return static_cast<const char*>(tile.in[source.array]) + element * size_of(source.type);
}

bool is_plain(const Source& source, DType type) {
  return source.form == Source::Form::plain && source.type == type;
}

}  // namespace

void Reader::start(const Tile& tile, std::span<const Source> sources, As as, std::size_t begin,
                   std::size_t chunk) {
  chunk_ = chunk;
  decoded_.resize(std::max(decoded_.size(), sources.size() * chunk));
  next_.resize(sources.size());
  for (std::size_t i = 0; i < sources.size(); ++i)
    next_[i] = values_before(sources[i], tile, begin);
  rows_.resize(sources.size() - (as == As::deltas));
  deltas_.clear();
  if (as != As::deltas) return;
  for (std::size_t i = 1; i < sources.size(); ++i) deltas_.push_back(decoded_.data() + i * chunk);
  rows_.assign(deltas_.begin(), deltas_.end());
}

Rows Reader::stored(const Tile& tile, std::span<const Source> sources, std::size_t first) {
  rows_.clear();
  for (const Source& source : sources) rows_.push_back(stored_at(tile, source, first));
  return {stored_type(sources), rows_, {}};
}

Rows Reader::float32(const Tile& tile, std::span<const Source> sources, std::size_t first,
                     std::size_t n) {
  for (std::size_t i = 0; i < sources.size(); ++i) rows_[i] = row(tile, sources[i], i, first, n);
  return {DType::f32, rows_, {}};
}

Rows Reader::deltas(const Tile& tile, std::span<const Source> sources, std::size_t first,
                    std::size_t n) {
  const Source& base = sources[0];
  const float* wide = nullptr;
  for (std::size_t i = 1; i < sources.size(); ++i) {
    float* const out = deltas_[i - 1];
    if (is_fused(base.type) && is_plain(base, base.type) && is_plain(sources[i], base.type)) {
      kernels().subtract[static_cast<int>(base.type)](stored_at(tile, sources[i], first),
                                                      stored_at(tile, base, first), out, n);
      continue;
    }
    if (wide == nullptr) wide = row(tile, base, 0, first, n);
    kernels().subtract[0](row(tile, sources[i], i, first, n), wide, out, n);
  }
  return {DType::f32, rows_, deltas_};
}

// Return n float32 values: where they are stored so, or in the i-th part of the memory for chunks.
const float* Reader::row(const Tile& tile, const Source& source, std::size_t i, std::size_t first,
                         std::size_t n) {
  if (is_plain(source, DType::f32))
    return static_cast<const float*>(stored_at(tile, source, first));
  float* const out = decoded_.data() + i * chunk_;
  decode({source, tile, first, n, next_[i]}, out);
  return out;
}

}  // namespace tallies
