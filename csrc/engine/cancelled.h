// Votes that cancelled, listed with the results that the other sign gives: once the majority is
// known, elements that took the wrong sign are written by position.
#pragma once

#include <map>
#include <mutex>
#include <optional>

#include "engine/combine.h"

namespace tallies {

// The elements of a tile whose results depend on the sign of cancelled votes.
struct SignDifferences {
  std::vector<std::uint32_t> at;  // elements of the tile, in order
  std::vector<std::uint64_t> by;  // the other result minus the one written, of its bits
};

// A tile with cancelled votes, and its differences in few bytes each.
struct ListedTile {
  Range range;
  Lanes output{};  // fingerprint as it is written
  std::uint64_t n = 0;
  std::vector<std::uint8_t> bytes{};
  bool is_other = false;  // the differences are those of the results that were not written

  std::uint64_t n_bytes() const { return bytes.size() + sizeof(ListedTile); }
  SignDifferences differences() const;
};

// Makes the list of a tile, in order, in memory that it keeps.
class Lister {
 public:
  void start();
  void add(std::uint32_t at, std::uint64_t by);
  // Adds the differences of results that lie in two arrays, of elements from `first` on.
  void add(std::uint32_t first, const void* written, const void* others, std::size_t n,
           std::size_t element_bytes);
  ListedTile list_of(const Range& tile) const;

 private:
  void make_room(std::size_t n);
  template <class Word>
  void add_words(std::uint32_t first, const void* written, const void* others, std::size_t n);

  std::vector<std::uint8_t> bytes_, mask_;
  std::size_t end_ = 0;
  std::uint32_t before_ = 0;
  std::uint64_t n_ = 0;
};

// Adds a difference to an element.
void add_difference(char* element, std::size_t element_bytes, std::uint64_t by);

// The lists of all combines that are given the same ones. Tiles are found by the place of what they
// write, whatever job does so.
class Cancelled {
 public:
  using Place = std::pair<int, std::uint64_t>;
  static std::optional<Place> place_of(const Job&, std::size_t row);

  explicit Cancelled(std::uint64_t list_bytes) : list_bytes_(list_bytes) {}

  std::uint64_t n_bytes() const;
  bool has_room() const { return n_bytes() < list_bytes_; }
  // Forgets tiles that are combined anew.
  void forget(const Place&, const Range&);
  // Keeps a tile if there is room.
  void add(const Place&, ListedTile);
  std::optional<ListedTile> take(const Place&, std::uint64_t first);
  std::vector<ListedTile> take(const Place&);

 private:
  using Tiles = std::map<std::uint64_t, ListedTile>;  // by the first element

  const std::uint64_t list_bytes_;
  mutable std::mutex mutex_;
  std::uint64_t n_bytes_ = 0;
  std::map<Place, Tiles> tiles_;
};

// Tiles of a row of outputs whose cancelled votes took the wrong sign.
struct Wrong {
  std::size_t job, row;
  std::vector<Range> ranges;  // in order, apart
};
struct Mended {
  Lanes output{};                            // fingerprint of the tiles that are right now
  std::vector<Range> left;                   // the ranges of the others, to be combined again
  std::uint64_t n_listed = 0, n_mended = 0;  // elements
};

// Writes listed elements with the other sign, and frees the lists of these rows.
std::vector<Mended> mend(const Plan&, Cancelled&, const std::vector<Wrong>&, const Limits&,
                         const Progress&);

}  // namespace tallies
