// Parts: the numbers that passes find of some elements. Parts add up, and become bytes on the way
// from one machine to another.
//
// A part lists its fields once:
//   static auto fields(auto& part) { return std::tie(part.before, part.after); }
// Part::kMark names the kind and version of its bytes, and Part::is_valid() judges a part that was
// read.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/error.h"

namespace tallies {

static_assert(std::endian::native == std::endian::little, "bytes are written as they lie");

template <class Part>
void add(Part& sum, const Part& part);
template <class T, std::size_t n>
void add(std::array<T, n>& sums, const std::array<T, n>& parts);

// Adds each element. Error if the numbers of elements differ.
template <class T>
void add(std::vector<T>& sums, const std::vector<T>& parts) {
  if (sums.size() != parts.size())
    throw Error(Error::Kind::request, "parts to add have " + std::to_string(sums.size()) + " and " +
                                          std::to_string(parts.size()) +
                                          " sums, expected as many; add parts of one survey");
  for (std::size_t i = 0; i < parts.size(); ++i) add(sums[i], parts[i]);
}

template <class T, std::size_t n>
void add(std::array<T, n>& sums, const std::array<T, n>& parts) {
  for (std::size_t i = 0; i < n; ++i) add(sums[i], parts[i]);
}

// Adds a part by its own operator, or field by field; a truth value holds if either holds.
template <class Part>
void add(Part& sum, const Part& part) {
  if constexpr (std::is_same_v<Part, bool>)
    sum |= part;
  else if constexpr (requires { sum += part; })
    sum += part;
  else
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      const auto sums = Part::fields(sum);
      const auto parts = Part::fields(part);
      (add(std::get<i>(sums), std::get<i>(parts)), ...);
    }(std::make_index_sequence<std::tuple_size_v<decltype(Part::fields(sum))>>());
}

// Writes numbers, vectors, maps and types with fields.
class ToBytes {
 public:
  explicit ToBytes(std::string_view mark) : bytes_(mark) {}

  template <class T>
  void put(const T& x) {
    if constexpr (std::is_arithmetic_v<T>)
      bytes_.append(reinterpret_cast<const char*>(&x), sizeof x);
    else
      std::apply([&](const auto&... fields) { (put(fields), ...); }, T::fields(x));
  }
  template <class T, std::size_t n>
  void put(const std::array<T, n>& all) {
    for (const T& x : all) put(x);
  }
  template <class T>
  void put(const std::vector<T>& all) {
    put(std::uint64_t(all.size()));
    for (const T& x : all) put(x);
  }
  template <class K, class V>
  void put(const std::map<K, V>& all) {
    put(std::uint64_t(all.size()));
    for (const auto& [key, value] : all) {
      put(key);
      put(value);
    }
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads what ToBytes writes. Error if the bytes are others.
class FromBytes {
 public:
  FromBytes(std::string_view mark, std::string_view bytes) : mark_(mark), left_(bytes) {
    if (!left_.starts_with(mark)) refuse("another beginning");
    left_.remove_prefix(mark.size());
  }

  template <class T>
  void get(T& x) {
    if constexpr (std::is_same_v<T, bool>) {
      std::uint8_t byte = 0;
      get(byte);
      if (byte > 1) refuse("a truth value of " + std::to_string(byte));
      x = byte == 1;
    } else if constexpr (std::is_arithmetic_v<T>) {
      if (sizeof x > left_.size()) refuse("too few bytes");
      std::memcpy(&x, left_.data(), sizeof x);
      left_.remove_prefix(sizeof x);
    } else {
      std::apply([&](auto&... fields) { (get(fields), ...); }, T::fields(x));
    }
  }
  template <class T, std::size_t n>
  void get(std::array<T, n>& all) {
    for (T& x : all) get(x);
  }
  template <class T>
  void get(std::vector<T>& all) {
    all.clear();
    for (std::uint64_t i = count(std::is_arithmetic_v<T> ? sizeof(T) : 1); i > 0; --i)
      get(all.emplace_back());
  }
  template <class K, class V>
  void get(std::map<K, V>& all) {
    all.clear();
    for (std::uint64_t i = count(sizeof(K)); i > 0; --i) {
      K key;
      get(key);
      get(all[key]);
    }
  }
  void end() const {
    if (!left_.empty()) refuse(std::to_string(left_.size()) + " bytes too many");
  }
  [[noreturn]] void refuse(const std::string& found) const {
    throw Error(Error::Kind::request, "bytes of a survey: found " + found + ", expected '" +
                                          std::string(mark_) +
                                          "' as to_bytes of this version of tallies writes it");
  }

 private:
  // Reads a number of elements that take at least n_bytes each.
  std::uint64_t count(std::size_t n_bytes) {
    std::uint64_t n = 0;
    get(n);
    if (n > left_.size() / n_bytes) refuse("fewer bytes than are announced");
    return n;
  }

  std::string_view mark_, left_;
};

template <class Part>
std::string to_bytes(const Part& part) {
  ToBytes bytes(Part::kMark);
  bytes.put(part);
  return bytes.take();
}
template <class Part>
Part from_bytes(std::string_view from) {
  FromBytes bytes(Part::kMark, from);
  Part part;
  bytes.get(part);
  bytes.end();
  if (!part.is_valid()) bytes.refuse("numbers that do not belong together");
  return part;
}

}  // namespace tallies
