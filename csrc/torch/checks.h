// The checks of every operator's arguments before a kernel runs. A refusal names the argument,
// what was found, what was expected and the way out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/error.h"
#include "core/table.h"
#include "torch/tensor.h"

namespace tallies::torch {

[[noreturn]] inline void refuse(const std::string& text) {
  throw Error(Error::Kind::request, text);
}

// Words of what was found.

inline std::string word(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return text;
}

inline std::string shape_word(std::span<const std::int64_t> sizes) {
  std::string text = "(";
  for (std::size_t i = 0; i < sizes.size(); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

struct NamedDType {
  std::int32_t code;
  const char* name;
};

inline std::string dtype_word(std::int32_t dtype) {
  static const NamedDType known[] = {
#define TALLIES_DTYPE(name) {aoti_torch_dtype_##name(), #name},
      TALLIES_DTYPE(bfloat16) TALLIES_DTYPE(bool) TALLIES_DTYPE(complex128) TALLIES_DTYPE(complex64)
          TALLIES_DTYPE(float16) TALLIES_DTYPE(float32) TALLIES_DTYPE(float64)
              TALLIES_DTYPE(float8_e4m3fn) TALLIES_DTYPE(float8_e5m2) TALLIES_DTYPE(int16)
                  TALLIES_DTYPE(int32) TALLIES_DTYPE(int64) TALLIES_DTYPE(int8) TALLIES_DTYPE(uint8)
#undef TALLIES_DTYPE
  };
  for (const NamedDType& one : known)
    if (one.code == dtype) return one.name;
  return "number " + std::to_string(dtype);
}

inline std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& one : words) text += (text.empty() ? "" : ", ") + one;
  return text;
}

// An argument, or one of the items of a list; words are made of it only when it is refused.
struct Name {
  const char* text;
  std::ptrdiff_t index = -1;
  Name(const char* name) : text(name) {}
  Name(const char* list, std::size_t i) : text(list), index(static_cast<std::ptrdiff_t>(i)) {}
  std::string str() const {
    return index < 0 ? text : std::string(text) + "[" + std::to_string(index) + "]";
  }
};

// The types that the kernels read and write, in torch's numbers and in ours.
inline const std::vector<std::pair<std::int32_t, DType>>& kernel_dtypes() {
  static const std::vector<std::pair<std::int32_t, DType>> known = {
      {aoti_torch_dtype_float32(), DType::f32},
      {aoti_torch_dtype_float16(), DType::f16},
      {aoti_torch_dtype_bfloat16(), DType::bf16},
  };
  return known;
}

// Tensors

// On the device whose kernels these are, and dense.
template <class Device>
void check_place(Name name, const Tensor& x, const Tensor& first) {
  static const std::int32_t type = Device::type(), strided = aoti_torch_layout_strided();
  if (x.device_type() != type || (&x != &first && x.device_index() != first.device_index()))
    refuse(name.str() + ": found a tensor on another device, expected all on " + Device::kName +
           "; move it with .to()");
  if (x.layout() != strided)
    refuse(name.str() +
           ": found a sparse or other special layout, expected a dense tensor; convert it with "
           ".to_dense()");
}

// A tensor as the kernels read it; the memory is the tensor's.
struct Values {
  Tensor tensor;
  View view;
  std::size_t n;
};

template <class Device>
Values values(Name name, Tensor x, const Tensor* first = nullptr) {
  check_place<Device>(name, x, first == nullptr ? x : *first);
  const std::int32_t found = x.dtype();
  for (const auto& [code, dtype] : kernel_dtypes()) {
    if (code != found) continue;
    Tensor dense = laid_out(std::move(x), size_of(dtype));
    const View view{dense.data(), dtype};
    const std::size_t n = dense.n();
    return {std::move(dense), view, n};
  }
  std::vector<std::string> words;
  for (const auto& [code, dtype] : kernel_dtypes()) words.push_back(dtype_word(code));
  refuse(name.str() + ": found dtype " + dtype_word(found) + ", expected one of " + joined(words) +
         "; convert it with .to()");
}

// A dense tensor of the one dtype that the argument has, of one byte.
template <class Device>
Tensor bytes(Name name, Tensor x, std::int32_t dtype, const Tensor* first = nullptr) {
  check_place<Device>(name, x, first == nullptr ? x : *first);
  if (x.dtype() != dtype)
    refuse(name.str() + ": found dtype " + dtype_word(x.dtype()) + ", expected one of " +
           dtype_word(dtype) + "; convert it with .to()");
  return laid_out(std::move(x), 1);
}

inline void same_shape(Name name, const Tensor& x, Name like_name, const Tensor& like) {
  if (!std::ranges::equal(x.sizes(), like.sizes()))
    refuse(name.str() + ": found shape " + shape_word(x.sizes()) + ", expected that of " +
           like_name.str() + ", " + shape_word(like.sizes()));
}

inline void check_count(Name name, std::size_t n) {
  if (n < 1 || n > static_cast<std::size_t>(kMaxExperts))
    refuse(name.str() + ": found " + std::to_string(n) + " tensors, expected 1 to " +
           std::to_string(kMaxExperts));
}

enum class DTypes { equal, any };

// One tensor per expert, of equal shapes.
template <class Device>
std::vector<Values> rows(const char* name, std::vector<Tensor> given, DTypes dtypes) {
  check_count(name, given.size());
  std::vector<Values> found;
  found.reserve(given.size());
  const Name first(name, std::size_t(0));
  for (std::size_t i = 0; i < given.size(); ++i) {
    const Name row(name, i);
    found.push_back(values<Device>(row, std::move(given[i]), i > 0 ? &found[0].tensor : nullptr));
    same_shape(row, found[i].tensor, first, found[0].tensor);
    if (dtypes == DTypes::equal && found[i].view.dtype != found[0].view.dtype)
      refuse(row.str() + ": found dtype " + dtype_word(found[i].tensor.dtype()) +
             ", expected that of " + first.str() + ", " + dtype_word(found[0].tensor.dtype()) +
             "; convert one of them");
  }
  return found;
}

inline std::vector<View> views(const std::vector<Values>& rows) {
  std::vector<View> all;
  all.reserve(rows.size());
  for (const Values& row : rows) all.push_back(row.view);
  return all;
}

// The sizes of a matrix and of the two factors of a product that is added to it.
struct FactorSizes {
  std::size_t n_rows, rank, n_columns;
};

inline FactorSizes factor_sizes(const Tensor& base, const Tensor& left, const Tensor& right) {
  if (base.sizes().size() != 2)
    refuse("base: found shape " + shape_word(base.sizes()) + ", expected a matrix");
  const std::int64_t rows = base.sizes()[0], columns = base.sizes()[1];
  if (left.sizes().size() != 2 || left.sizes()[0] != rows || left.sizes()[1] == 0)
    refuse("left: found shape " + shape_word(left.sizes()) + ", expected [" + std::to_string(rows) +
           ", rank] for a base of " + std::to_string(rows) + " rows");
  const std::int64_t rank = left.sizes()[1], expected[] = {rank, columns};
  if (!std::ranges::equal(right.sizes(), expected))
    refuse("right: found shape " + shape_word(right.sizes()) + ", expected [rank, columns], " +
           shape_word(expected));
  return {static_cast<std::size_t>(rows), static_cast<std::size_t>(rank),
          static_cast<std::size_t>(columns)};
}

// Packed masks have eight elements a byte.
inline std::int64_t packed_bytes(std::size_t n) { return static_cast<std::int64_t>((n + 7) / 8); }

template <class Device>
Tensor packed(Name name, Tensor given, std::size_t n, const Tensor* first = nullptr) {
  Tensor mask = bytes<Device>(name, std::move(given), aoti_torch_dtype_uint8(), first);
  if (mask.sizes().size() != 1)
    refuse(name.str() + ": found shape " + shape_word(mask.sizes()) +
           ", expected a packed mask, uint8 of one dimension");
  if (mask.sizes()[0] != packed_bytes(n))
    refuse(name.str() + ": found " + std::to_string(mask.n()) + " bytes, expected " +
           std::to_string(packed_bytes(n)) + " for " + std::to_string(n) + " elements");
  return mask;
}

inline Tensor empty_mask(std::size_t n, const Tensor& like) {
  const std::int64_t size = packed_bytes(n);
  return empty({&size, 1}, aoti_torch_dtype_uint8(), like);
}

// Numbers

inline constexpr double kLargest = std::numeric_limits<float>::max();

inline double number(Name name, double value, double low, double high, const char* expected) {
  if (!(low <= value && value <= high))
    refuse(name.str() + ": found " + word(value) + ", expected " + expected);
  return value;
}

inline float finite(Name name, double value) {
  return static_cast<float>(number(name, value, -kLargest, kLargest, "a finite number"));
}

inline double share(Name name, double value) {
  return number(name, value, 0, 1, "a number from 0 to 1");
}

inline std::size_t whole(Name name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high)
    refuse(name.str() + ": found " + std::to_string(value) + ", expected a whole number from " +
           std::to_string(low) + " to " + std::to_string(high));
  return static_cast<std::size_t>(value);
}

// One per expert; ones without any.
inline std::vector<float> weights(const std::optional<std::vector<double>>& given, std::size_t n) {
  if (!given) return std::vector<float>(n, 1.0f);
  if (given->size() != n)
    refuse("weights: found " + std::to_string(given->size()) +
           " values, expected one for each of the " + std::to_string(n) + " tensors");
  std::vector<float> found;
  found.reserve(n);
  for (std::size_t i = 0; i < n; ++i) found.push_back(finite({"weights", i}, (*given)[i]));
  return found;
}

// A share per expert, each of which stands for a trim.
inline std::vector<Trim> trims(const std::vector<double>& given, std::size_t n_experts,
                               std::size_t n, bool exactly, bool at_least_one) {
  if (given.size() != n_experts)
    refuse("density: found " + std::to_string(given.size()) +
           " values, expected one for each of the " + std::to_string(n_experts) + " experts");
  std::vector<Trim> found;
  found.reserve(n_experts);
  for (std::size_t i = 0; i < n_experts; ++i)
    found.push_back(trim_to(n, share({"density", i}, given[i]), exactly, at_least_one));
  return found;
}

// Words

// Position of the word among those known.
inline std::size_t choice(Name name, const std::string& given,
                          const std::vector<std::string>& known) {
  const auto found = std::ranges::find(known, given);
  if (found == known.end())
    refuse(name.str() + ": found '" + given + "', expected one of " + joined(known));
  return static_cast<std::size_t>(found - known.begin());
}

// The rule of these words, which stands alone.
inline Rule compiled_rule(const std::string& gate, const std::string& vote,
                          const std::string& blend) {
  const auto is_asked = [&](const RuleWords& words) {
    return gate == words.gate && vote == words.vote && blend == words.blend;
  };
  for (int i = 0; i < kNRules; ++i)
    if (stands_alone(kRules[i]) && is_asked(kRuleWords[i])) return kRules[i];
  std::vector<std::string> known;
  for (int i = 0; i < kNRules; ++i) {
    const RuleWords& words = kRuleWords[i];
    if (stands_alone(kRules[i]))
      known.push_back(std::string(words.gate) + " " + words.vote + " " + words.blend);
  }
  refuse("gate, vote and blend: found '" + gate + " " + vote + " " + blend +
         "', expected one of: " + joined(known));
}

// The sign that a vote of exactly zero takes.
struct ZeroSign {
  int sign;
  bool majority = false;
};

inline constexpr ZeroSign kZeroSigns[] = {{-1, true}, {1}, {-1}, {0}};

inline ZeroSign zero_sign(const std::string& given) {
  static const std::vector<std::string> known = {"majority", "positive", "negative", "drop"};
  return kZeroSigns[choice("zero", given, known)];
}

// True if only the first of the entries that equal the threshold are kept.
inline bool keeps_exactly(const std::string& given) {
  static const std::vector<std::string> known = {"keep", "first"};
  return choice("equal", given, known) == 1;
}

// A rule, the sign of zero votes and the trim as one number: from its lowest bits up 4 for each of
// gate, vote and blend, in the order of their enums, 2 for the word of zero_sign(), and one each
// for `exactly` and `at_least_one` of trim_to(). Python's is in `tallies.torch.numbered`.
struct NumberedRule {
  Rule rule;
  ZeroSign zero;
  bool exactly, at_least_one;
};

inline NumberedRule numbered_rule(std::int64_t number) {
  const auto bits = [&](int from, int n) {
    return static_cast<std::uint8_t>(number >> from & ((1 << n) - 1));
  };
  const Rule rule{Gate{bits(0, 4)}, Vote{bits(4, 4)}, Blend{bits(8, 4)}};
  if (number >> 16 != 0 || index_of(rule) < 0 || !stands_alone(rule))
    refuse("number: found " + std::to_string(number) + ", expected that of a rule; call combine");
  return {rule, kZeroSigns[bits(12, 2)], bits(14, 1) == 1, bits(15, 1) == 1};
}

// The trim of one task vector into a tensor of its shape and dtype, as a merge of it alone.
inline ArrayMerge trim_of(const Values& given, double density, bool exactly, Tensor& out) {
  return {{Gate::magnitude, Vote::none, Blend::sum},
          given.n,
          nullptr,
          {given.view},
          {1.0f},
          {trim_to(given.n, share("density", density), exactly, false)},
          exactly,
          1.0f,
          0,
          false,
          out.mutable_data(),
          given.view.dtype,
          given.view.dtype};
}

}  // namespace tallies::torch
