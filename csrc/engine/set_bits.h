// The elements that a packed mask has set, and the values of those elements side by side.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tallies {

// Calls body(word, i) for the words of 64 bits that n elements of a packed mask take.
template <class Body>
void for_each_word(const std::uint8_t* mask, std::size_t n, const Body& body) {
  for (std::size_t i = 0; i < n; i += 64) {
    const std::size_t left = std::min<std::size_t>(n - i, 64);
    std::uint64_t word = 0;
    std::memcpy(&word, mask + i / 8, (left + 7) / 8);
    if (left < 64) word &= (std::uint64_t(1) << left) - 1;
    body(word, i);
  }
}

// Return how many of the n elements of a packed mask are set.
inline std::uint64_t count_set(const std::uint8_t* mask, std::size_t n) {
  std::uint64_t n_set = 0;
  for_each_word(mask, n, [&](std::uint64_t word, std::size_t) {
    n_set += static_cast<std::uint64_t>(std::popcount(word));
  });
  return n_set;
}

// Calls body(i) for the elements that a mask has set.
template <class Body>
void for_each_set(const std::uint8_t* mask, std::size_t n, const Body& body) {
  for_each_word(mask, n, [&](std::uint64_t word, std::size_t i) {
    for (; word != 0; word &= word - 1) body(i + static_cast<std::size_t>(std::countr_zero(word)));
  });
}

// Writes values that lie side by side to the elements that a mask has set, and leaves the others.
template <class Word>
void scatter(const void* in, const std::uint8_t* mask, std::size_t n, void* out) {
  const auto* from = static_cast<const Word*>(in);
  auto* to = static_cast<Word*>(out);
  for_each_set(mask, n, [&](std::size_t i) { to[i] = *from++; });
}

// Returns the index of a size in tables of functions for elements of 1, 2, 4 and 8 bytes.
inline std::size_t by_size(std::size_t n_bytes) {
  return static_cast<std::size_t>(std::countr_zero(n_bytes));
}

using Move = void (*)(const void*, const std::uint8_t*, std::size_t, void*);
inline constexpr Move kScatter[] = {scatter<std::uint8_t>, scatter<std::uint16_t>,
                                    scatter<std::uint32_t>, scatter<std::uint64_t>};

// The rows of elements that are asked for in ascending order.
class RowOf {
 public:
  explicit RowOf(std::uint64_t length) : length_(length) {}
  std::uint64_t operator()(std::uint64_t element) {
    if (element < end_) return row_;
    row_ = element / length_;
    end_ = (row_ + 1) * length_;
    return row_;
  }

 private:
  std::uint64_t length_, row_ = 0, end_ = 0;
};

}  // namespace tallies
