// Parts of surveys: added to one another, and as bytes on the way from one worker to another.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/error.h"

namespace tallies {

static_assert(std::endian::native == std::endian::little, "bytes are written as they lie");

// Adds each element. Error if the numbers of elements differ.
template <class T>
void add_each(std::vector<T>& sums, const std::vector<T>& parts, const char* what) {
  if (sums.size() != parts.size())
    throw Error(Error::Kind::request, "parts to add have " + std::to_string(sums.size()) + " and " +
                                          std::to_string(parts.size()) + " " + what +
                                          ", expected the same number; add parts of one survey");
  for (std::size_t i = 0; i < parts.size(); ++i) sums[i] += parts[i];
}

// Writes what it is called with: numbers, vectors, maps, and types with a function `archive`.
class ToBytes {
 public:
  explicit ToBytes(std::string_view mark) : bytes_(mark) {}

  template <class... Fields>
  void operator()(const Fields&... fields) {
    (put(fields), ...);
  }
  std::string take() { return std::move(bytes_); }

 private:
  template <class T>
  void put(const T& x) {
    if constexpr (std::is_arithmetic_v<T>)
      bytes_.append(reinterpret_cast<const char*>(&x), sizeof x);
    else
      archive(*this, const_cast<T&>(x));  // the one function for both directions
  }
  template <class T>
  void put(const std::vector<T>& all) {
    put(std::uint64_t(all.size()));
    if constexpr (std::is_arithmetic_v<T>)
      bytes_.append(reinterpret_cast<const char*>(all.data()), all.size() * sizeof(T));
    else
      for (const T& x : all) put(x);
  }
  template <class K, class V>
  void put(const std::map<K, V>& all) {
    put(std::uint64_t(all.size()));
    for (const auto& [key, value] : all) operator()(key, value);
  }

  std::string bytes_;
};

// Reads the same; Error where the bytes are not such.
class FromBytes {
 public:
  FromBytes(std::string_view mark, std::string_view bytes) : mark_(mark), left_(bytes) {
    if (!left_.starts_with(mark)) refuse("another beginning");
    left_.remove_prefix(mark.size());
  }

  template <class... Fields>
  void operator()(Fields&... fields) {
    (get(fields), ...);
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
  template <class T>
  void get(T& x) {
    if constexpr (std::is_same_v<T, bool>) {
      std::uint8_t byte = 0;
      get(byte);
      if (byte > 1) refuse("a truth value of " + std::to_string(byte));
      x = byte == 1;
    } else if constexpr (std::is_arithmetic_v<T>) {
      copy(&x, sizeof x);
    } else {
      archive(*this, x);
    }
  }
  template <class T>
  void get(std::vector<T>& all) {
    const std::uint64_t n = count(std::is_arithmetic_v<T> ? sizeof(T) : 1);
    all.clear();
    if constexpr (std::is_arithmetic_v<T>) {
      all.resize(n);
      copy(all.data(), n * sizeof(T));
    } else {
      for (std::uint64_t i = 0; i < n; ++i) get(all.emplace_back());
    }
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
  // A number of elements, for each of which there are at least so many bytes.
  std::uint64_t count(std::size_t n_bytes) {
    std::uint64_t n = 0;
    get(n);
    if (n > left_.size() / n_bytes) refuse("fewer bytes than are announced");
    return n;
  }
  void copy(void* to, std::size_t n_bytes) {
    if (n_bytes > left_.size()) refuse("too few bytes");
    if (n_bytes > 0) std::memcpy(to, left_.data(), n_bytes);
    left_.remove_prefix(n_bytes);
  }

  std::string_view mark_, left_;
};

// A part as bytes and back. Part::kMark names its kind and the version of its layout;
// Part::is_valid() is asked for what has been read.
template <class Part>
std::string to_bytes(const Part& part) {
  ToBytes bytes(Part::kMark);
  bytes(part);
  return bytes.take();
}
template <class Part>
Part from_bytes(std::string_view from) {
  FromBytes bytes(Part::kMark, from);
  Part part;
  bytes(part);
  bytes.end();
  if (!part.is_valid()) bytes.refuse("numbers that do not belong together");
  return part;
}

}  // namespace tallies
