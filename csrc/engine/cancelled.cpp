#include "engine/cancelled.h"

#include <algorithm>
#include <cstring>

#include "engine/parts.h"
#include "engine/rewrite.h"
#include "engine/set_bits.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Tiles between two calls of the progress.
constexpr std::size_t kTogether = 256;
// The most bytes of a number.
constexpr std::size_t kMostBytes = 10;

// Writes a number in groups of seven bits, the lowest first.
std::uint8_t* put(std::uint64_t x, std::uint8_t* to) {
  for (; x >= 128; x >>= 7) *to++ = static_cast<std::uint8_t>(x | 128);
  *to++ = static_cast<std::uint8_t>(x);
  return to;
}

const std::uint8_t* get(const std::uint8_t* from, std::uint64_t& x) {
  x = 0;
  for (int shift = 0;; shift += 7) {
    const std::uint64_t byte = *from++;
    x |= (byte & 127) << shift;
    if (byte < 128) return from;
  }
}

// Small differences of both signs become small numbers.
std::uint64_t folded(std::uint64_t by) {
  return by << 1 ^ static_cast<std::uint64_t>(static_cast<std::int64_t>(by) >> 63);
}
std::uint64_t unfolded(std::uint64_t x) { return x >> 1 ^ -(x & 1); }

template <class Word>
void add_to(char* element, std::uint64_t by) {
  Word word;
  std::memcpy(&word, element, sizeof word);
  word = static_cast<Word>(word + by);
  std::memcpy(element, &word, sizeof word);
}

// Returns what is left of ranges without tiles that lie in them, both in order.
std::vector<Range> without(const std::vector<Range>& ranges, const std::vector<Range>& tiles) {
  std::vector<Range> left;
  auto tile = tiles.begin();
  for (const auto& [first, n] : ranges) {
    std::uint64_t at = first;
    for (; tile != tiles.end() && tile->first < first + n; ++tile) {
      if (tile->first > at) left.emplace_back(at, tile->first - at);
      at = tile->first + tile->second;
    }
    if (at < first + n) left.emplace_back(at, first + n - at);
  }
  return left;
}

bool lies_in(const std::vector<Range>& ranges, const Range& tile) {
  const auto behind = std::ranges::upper_bound(ranges, tile.first, {}, &Range::first);
  if (behind == ranges.begin()) return false;
  const Range& range = *std::prev(behind);
  return tile.first + tile.second <= range.first + range.second;
}

}  // namespace

SignDifferences ListedTile::differences() const {
  SignDifferences found;
  const std::uint8_t* from = bytes.data();
  std::uint64_t at = 0, gap = 0, by = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    from = get(get(from, gap), by);
    at += gap;
    by = unfolded(by);
    found.at.push_back(static_cast<std::uint32_t>(at));
    found.by.push_back(is_other ? -by : by);
  }
  return found;
}

void Lister::start() {
  end_ = 0;
  before_ = 0;
  n_ = 0;
}

void Lister::make_room(std::size_t n) {
  const std::size_t n_bytes = end_ + 2 * n * kMostBytes;
  if (bytes_.size() < n_bytes) bytes_.resize(2 * n_bytes);
}

void Lister::add(std::uint32_t at, std::uint64_t by) {
  make_room(1);
  std::uint8_t* const to = bytes_.data() + end_;
  end_ += static_cast<std::size_t>(put(folded(by), put(at - before_, to)) - to);
  before_ = at;
  ++n_;
}

template <class Word>
void Lister::add_words(std::uint32_t first, const void* written, const void* others,
                       std::size_t n) {
  const auto* const from = static_cast<const Word*>(written);
  const auto* const to = static_cast<const Word*>(others);
  std::uint8_t* end = bytes_.data() + end_;
  std::uint32_t before = before_;
  for_each_set(mask_.data(), n, [&](std::size_t i) {
    const std::uint32_t at = first + static_cast<std::uint32_t>(i);
    end = put(folded(std::uint64_t(to[i]) - std::uint64_t(from[i])), put(at - before, end));
    before = at;
  });
  end_ = static_cast<std::size_t>(end - bytes_.data());
  before_ = before;
}

void Lister::add(std::uint32_t first, const void* written, const void* others, std::size_t n,
                 std::size_t element_bytes) {
  constexpr decltype(&Lister::add_words<std::uint8_t>) kAdd[] = {
      &Lister::add_words<std::uint8_t>, &Lister::add_words<std::uint16_t>,
      &Lister::add_words<std::uint32_t>, &Lister::add_words<std::uint64_t>};
  mask_.resize(std::max(mask_.size(), (n + 7) / 8));
  kernels().differ[by_size(element_bytes)](written, others, mask_.data(), n);
  const std::uint64_t n_set = count_set(mask_.data(), n);
  n_ += n_set;
  make_room(n_set);
  (this->*kAdd[by_size(element_bytes)])(first, written, others, n);
}

ListedTile Lister::list_of(const Range& tile) const {
  const auto begin = bytes_.begin();
  return {.range = tile, .n = n_, .bytes = {begin, begin + static_cast<std::ptrdiff_t>(end_)}};
}

void add_difference(char* element, std::size_t element_bytes, std::uint64_t by) {
  constexpr decltype(&add_to<std::uint8_t>) kAdd[] = {add_to<std::uint8_t>, add_to<std::uint16_t>,
                                                      add_to<std::uint32_t>, add_to<std::uint64_t>};
  kAdd[by_size(element_bytes)](element, by);
}

std::optional<Cancelled::Place> Cancelled::place_of(const Job& job, std::size_t row) {
  for (const Output& output : job.outputs)
    if (output.row == row) return Place(output.file, output.offset);
  return {};
}

std::uint64_t Cancelled::n_bytes() const {
  const std::lock_guard lock(mutex_);
  return n_bytes_;
}

void Cancelled::forget(const Place& place, const Range& range) {
  const std::lock_guard lock(mutex_);
  const auto found = tiles_.find(place);
  if (found == tiles_.end()) return;
  std::erase_if(found->second, [&](const auto& one) {
    const auto& [first, n] = one.second.range;
    const bool is_old = first < range.first + range.second && range.first < first + n;
    if (is_old) n_bytes_ -= one.second.n_bytes();
    return is_old;
  });
}

void Cancelled::add(const Place& place, ListedTile tile) {
  const std::lock_guard lock(mutex_);
  if (n_bytes_ + tile.n_bytes() > list_bytes_) return;
  n_bytes_ += tile.n_bytes();
  tiles_[place].insert_or_assign(tile.range.first, std::move(tile));
}

std::optional<ListedTile> Cancelled::take(const Place& place, std::uint64_t first) {
  const std::lock_guard lock(mutex_);
  const auto tiles = tiles_.find(place);
  if (tiles == tiles_.end()) return {};
  auto found = tiles->second.extract(first);
  if (found.empty()) return {};
  n_bytes_ -= found.mapped().n_bytes();
  return std::move(found.mapped());
}

std::vector<ListedTile> Cancelled::take(const Place& place) {
  const std::lock_guard lock(mutex_);
  std::vector<ListedTile> taken;
  const auto found = tiles_.extract(place);
  if (found.empty()) return taken;
  for (auto& [first, tile] : found.mapped()) {
    n_bytes_ -= tile.n_bytes();
    taken.push_back(std::move(tile));
  }
  return taken;
}

std::vector<Mended> mend(const Plan& plan, Cancelled& cancelled, const std::vector<Wrong>& wrong,
                         const Limits& limits, const Progress& progress) {
  struct Work {
    std::size_t number;
    ListedTile tile;
  };
  std::vector<Mended> mended(wrong.size());
  std::vector<Work> work;
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    std::vector<Range> tiles;
    const auto place = Cancelled::place_of(plan.jobs[wrong[i].job], wrong[i].row);
    for (ListedTile& tile : place ? cancelled.take(*place) : std::vector<ListedTile>()) {
      mended[i].n_listed += tile.n;
      if (!lies_in(wrong[i].ranges, tile.range)) continue;
      mended[i].n_mended += tile.n;
      tiles.push_back(tile.range);
      work.push_back({i, std::move(tile)});
    }
    mended[i].left = without(wrong[i].ranges, tiles);
  }
  for (std::size_t begin = 0; begin < work.size(); begin += kTogether) {
    const std::size_t n = std::min(kTogether, work.size() - begin);
    parallel_for(n, limits.n_threads, [&](std::size_t i) {
      auto& [number, tile] = work[begin + i];
      const std::size_t job = wrong[number].job;
      const std::size_t element_bytes = size_of(plan.output_types[job]);
      const SignDifferences found = tile.differences();
      rewrite(
          plan, job, wrong[number].row, tile.range, found.at,
          [&](char* element, std::size_t at) {
            add_difference(element, element_bytes, found.by[at]);
          },
          tile.output);
      tile.bytes = {};
    });
    if (!progress(0)) return {};
  }
  for (const Work& one : work) add(mended[one.number].output, one.tile.output);
  return mended;
}

}  // namespace tallies
