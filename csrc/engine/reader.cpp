#include "engine/reader.h"

#include <algorithm>

#include "cpu/ops.h"

namespace tallies {
namespace {

const void* stored_at(const Tile& tile, const Source& source, std::size_t element) {
  return static_cast<const char*>(tile.in[source.array]) + element * size_of(source.type);
}

bool is_plain(const Source& source, DType type) {
  return source.form == Source::Form::plain && source.type == type && !source.changes;
}

// Elements of a window of one changed source, and of all together: the second-level cache holds
// one.
constexpr std::size_t kWindow = std::size_t(1) << 17, kWindows = std::size_t(1) << 20;

// Return the elements from `first` on, `n` or more, that are best decoded together: whole rows of
// about `most` elements, behind the rest of a row.
std::uint64_t window_of(const Source& source, std::uint64_t first, std::uint64_t n,
                        std::uint64_t most) {
  const std::uint64_t columns = source.changes->columns();
  const std::uint64_t rest = (columns - (first + source.before) % columns) % columns;
  if (columns > most) return std::max(n, rest == 0 ? most : std::min(rest, most));
  const std::uint64_t rows = most / columns;
  return std::max(
      n, rest + (rows < kProductRows ? rows : rows / kProductRows * kProductRows) * columns);
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
  const auto n_changed = static_cast<std::size_t>(
      std::ranges::count_if(sources, [](const Source& one) { return one.changes != nullptr; }));
  windows_.resize(std::max(windows_.size(), n_changed == 0 ? 0 : sources.size()));
  window_ = std::min(kWindow, kWindows / std::max<std::size_t>(n_changed, 1));
  if (as != As::deltas && as != As::copies) return;
  for (std::size_t i = as == As::deltas; i < sources.size(); ++i)
    deltas_.push_back(decoded_.data() + i * chunk);
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

Rows Reader::copies(const Tile& tile, std::span<const Source> sources, std::size_t first,
                    std::size_t n) {
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const float* const from = row(tile, sources[i], i, first, n);
    if (from != deltas_[i]) std::copy_n(from, n, deltas_[i]);
  }
  return {DType::f32, rows_, deltas_};
}

// Return n float32 values: where they are stored so, or in the i-th part of the memory for chunks.
const float* Reader::row(const Tile& tile, const Source& source, std::size_t i, std::size_t first,
                         std::size_t n) {
  if (is_plain(source, DType::f32))
    return static_cast<const float*>(stored_at(tile, source, first));
  if (source.changes) return changed(tile, source, i, first, n);
  float* const out = decoded_.data() + i * chunk_;
  decode({source, tile, first, n, next_[i]}, out);
  return out;
}

// The same of a changed source, from the window that has the elements.
const float* Reader::changed(const Tile& tile, const Source& source, std::size_t i,
                             std::size_t first, std::size_t n) {
  Window& window = windows_[i];
  const std::uint64_t element = tile.first + first;
  if (window.job != tile.job || window.array != source.array || element < window.first ||
      element + n > window.first + window.n) {
    window.n = 0;  // until the values are there
    const auto n_window = static_cast<std::size_t>(
        std::min<std::uint64_t>(window_of(source, element, n, window_), tile.n - first));
    window.values.reserve(n_window);
    next_[i] = values_before(source, tile, first);
    decode({source, tile, first, n_window, next_[i]}, window.values.data());
    window.job = tile.job;
    window.array = source.array;
    window.first = element;
    window.n = n_window;
  }
  return window.values.data() + (element - window.first);
}

}  // namespace tallies
