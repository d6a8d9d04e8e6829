// Operators that say how they treated equal magnitudes, and those that merge many tensors at once.
#pragma once

#include <tuple>

#include "core/float_env.h"
#include "engine/arrays.h"
#include "torch/boxed.h"
#include "torch/checks.h"

namespace tallies::torch {

using Text = std::string;
using Numbers = std::vector<double>;
using Tensors = std::vector<Tensor>;

template <class Device>
struct ManyOperators {
  using Stream = typename Device::Stream;

  static std::tuple<Tensor, Tensor> kth_magnitude_counted(Tensor x, std::int64_t k) {
    check_counts("x");
    const Values given = values<Device>("x", std::move(x));
    if (given.n == 0) refuse("x: found no elements, expected at least one to rank");
    const std::size_t rank = whole("k", k, 1, static_cast<std::int64_t>(given.n));
    Tensor out = empty({}, aoti_torch_dtype_float32(), given.tensor);
    Tensor counts = numbers(2, given.tensor);
    if constexpr (Device::kCounts) {
      const auto found = Device::rank_magnitude(given.view, given.n, rank);
      *static_cast<float*>(out.mutable_data()) = float_of(found.bits);
      auto* const count = static_cast<std::int64_t*>(counts.mutable_data());
      count[0] = static_cast<std::int64_t>(found.n_above);
      count[1] = static_cast<std::int64_t>(found.n_equal);
    }
    return {std::move(out), std::move(counts)};
  }

  static std::tuple<Tensor, Tensor> trim_counted(Tensor x, double density, Text equal) {
    check_counts("x");
    const Values given = values<Device>("x", std::move(x));
    Tensor out = empty_like(given.tensor), left_out = empty({}, aoti_torch_dtype_int64(), out);
    if constexpr (Device::kCounts) {
      const ArrayMerge merge = trim_of(given, density, keeps_exactly(equal), out);
      Stream stream(given.tensor);
      *static_cast<std::int64_t*>(left_out.mutable_data()) =
          static_cast<std::int64_t>(Device::trim(stream, merge));
    }
    return {std::move(out), std::move(left_out)};
  }

  static Tensor masked_mean(Tensors deltas, Tensors masks, std::optional<Numbers> given_weights) {
    check_counts("deltas[0]");
    const std::vector<Values> given = rows<Device>("deltas", std::move(deltas), DTypes::equal);
    const std::vector<float> factors = weights(given_weights, given.size());
    const std::vector<Tensor> kept = mask_rows("masks", std::move(masks), given);
    Tensor out = empty_like(given[0].tensor);
    if constexpr (Device::kCounts)
      Device::masked_mean(views(given), addresses(kept), factors, given[0].n, out.mutable_data());
    return out;
  }

  static std::tuple<Tensors, Tensor, Tensor> combine_many(
      std::optional<Tensors> bases, Tensors experts, std::vector<std::int64_t> n_experts, Text vote,
      Text blend, std::optional<Numbers> density, std::optional<Tensors> masks,
      std::optional<Numbers> given_weights, std::optional<Numbers> divisors, double scale,
      Text zero, Text equal, bool at_least_one, bool deltas, std::optional<TypeNumber> dtype,
      std::optional<std::int64_t> threads) {
    check_counts("experts[0]");
    const std::size_t n_tensors = n_experts.size(), n_rows = experts.size();
    if (n_tensors == 0) refuse("experts: found 0 tensors to merge, expected at least one");
    check_length("bases", bases ? bases->size() : n_tensors, n_tensors, "tensor");
    check_length("density", density ? density->size() : n_rows, n_rows, "expert");
    check_length("masks", masks ? masks->size() : n_rows, n_rows, "expert");
    check_length("weights", given_weights ? given_weights->size() : n_rows, n_rows, "expert");
    check_length("divisors", divisors ? divisors->size() : n_tensors, n_tensors, "tensor");
    if (density && (masks || (deltas && bases)))
      refuse(
          "density: found one beside masks or task vectors that are added to a base, expected "
          "none: the entries are chosen already; leave it out");
    const Rule rule = rule_of(density.has_value(), vote, blend);
    const ZeroSign zeros = zero == "majority_or_drop" ? ZeroSign{0, true} : zero_sign(zero);
    const bool exactly = keeps_exactly(equal);
    const float factor = finite("scale", scale);
    const int n_threads = threads ? static_cast<int>(whole("threads", *threads, 1, 1024)) : 0;
    std::vector<ArrayMerge> merges;
    std::vector<Values> origins, given;
    std::vector<Tensor> kept, results;
    std::size_t next = 0;
    for (std::size_t t = 0; t < n_tensors; ++t) {
      const std::size_t n = whole({"n_experts", t}, n_experts[t], 1, kMaxExperts);
      if (next + n > n_rows)
        refuse("experts: found " + std::to_string(n_rows) +
               " tensors, expected more: as many as "
               "n_experts add up to");
      ArrayMerge& merge = merges.emplace_back();
      std::optional<Values> origin;
      if (bases) origin = values<Device>({"bases", t}, std::move((*bases)[t]));
      for (std::size_t e = next; e < next + n; ++e) {
        Values x = values<Device>({"experts", e}, std::move(experts[e]));
        const Tensor& like = origin ? origin->tensor : e == next ? x.tensor : given[next].tensor;
        same_shape({"experts", e}, x.tensor, origin ? Name("bases", t) : Name("experts", next),
                   like);
        merge.experts.push_back(x.view);
        merge.weights.push_back(given_weights ? finite({"weights", e}, (*given_weights)[e]) : 1.0f);
        const double part = density ? share({"density", e}, (*density)[e]) : 1.0;
        // mergekit keeps one entry at least, but none for density 0; all kinds of `keep` keep the
        // first of the largest.
        merge.trims.push_back(trim_to(x.n, part, exactly || at_least_one, at_least_one));
        if (masks) {
          kept.push_back(mask_of({"masks", e}, std::move((*masks)[e]), x));
          merge.masks.push_back(static_cast<const std::uint8_t*>(kept.back().data()));
        }
        given.push_back(std::move(x));
      }
      const Values& like = origin ? *origin : given[next];
      const DType type = dtype ? type_of(dtype->value) : like.view.dtype;
      results.push_back(empty(like.tensor.sizes(), number_of(type), like.tensor));
      merge.rule = rule;
      merge.n = like.n;
      merge.base = origin ? origin->view.data : nullptr;
      merge.base_type = like.view.dtype;
      merge.exactly = exactly || at_least_one;
      merge.scale = factor;
      merge.zero_sign = zeros.sign;
      merge.majority = zeros.majority && rule.vote != Vote::none;
      merge.out = results.back().mutable_data();
      merge.out_type = type;
      merge.are_deltas = deltas || !origin;
      if (divisors) merge.divisor = finite({"divisors", t}, (*divisors)[t]);
      if (origin) origins.push_back(std::move(*origin));
      next += n;
    }
    if (next != n_rows)
      refuse("experts: found " + std::to_string(n_rows) + " tensors, expected " +
             std::to_string(next) + ", the sum of n_experts");
    Tensor left_out = numbers(n_tensors, given[0].tensor);
    const auto size = static_cast<std::int64_t>(n_tensors);
    Tensor overflow = empty({&size, 1}, aoti_torch_dtype_bool(), given[0].tensor);
    if constexpr (Device::kCounts) {
      const auto found = Device::merge_all(merges, n_threads);
      auto* const n_left = static_cast<std::int64_t*>(left_out.mutable_data());
      auto* const overflows = static_cast<std::uint8_t*>(overflow.mutable_data());
      for (std::size_t t = 0; t < n_tensors; ++t) {
        n_left[t] = 0;
        for (const auto& one : found[t].kept)
          n_left[t] += static_cast<std::int64_t>(one.n_left_out);
        overflows[t] = found[t].overflow;
      }
    }
    return {std::move(results), std::move(left_out), std::move(overflow)};
  }

 private:
  static void check_counts(const char* argument) {
    if constexpr (!Device::kCounts)
      refuse(std::string(argument) + ": found a tensor on " + Device::kName +
             ", expected one on the CPU: counts would wait for the device; move it with .cpu()");
  }

  static void check_length(const char* name, std::size_t found, std::size_t expected,
                           const char* each) {
    if (found != expected)
      refuse(std::string(name) + ": found " + std::to_string(found) +
             " values, expected one for each " + each + ", " + std::to_string(expected));
  }

  static Tensor numbers(std::size_t n, const Tensor& like) {
    const auto size = static_cast<std::int64_t>(n);
    return empty({&size, 1}, aoti_torch_dtype_int64(), like);
  }

  static DType type_of(std::int32_t number) {
    std::vector<std::string> words;
    for (const auto& [code, type] : kernel_dtypes()) {
      if (code == number) return type;
      words.push_back(dtype_word(code));
    }
    refuse("dtype: found " + dtype_word(number) + ", expected one of " + joined(words));
  }

  static std::int32_t number_of(DType dtype) {
    for (const auto& [code, type] : kernel_dtypes())
      if (type == dtype) return code;
    return aoti_torch_dtype_float32();
  }

  // Without a ranking, a rule that ranks keeps all.
  static Rule rule_of(bool ranks, const Text& vote, const Text& blend) {
    const auto is_known = [&](Gate gate, int i) {
      const Rule rule = kRules[i];
      const bool unweighted =
          rule.vote == Vote::unweighted_sum || rule.vote == Vote::unweighted_count;
      return rule.gate == gate && !(ranks && gate == Gate::all) &&
             (stands_alone(rule) || (gate == Gate::magnitude && unweighted));
    };
    for (const Gate gate : {Gate::magnitude, Gate::all})
      for (int i = 0; i < kNRules; ++i)
        if (vote == kRuleWords[i].vote && blend == kRuleWords[i].blend && is_known(gate, i))
          return kRules[i];
    std::vector<std::string> known;
    for (const Gate gate : {Gate::magnitude, Gate::all})
      for (int i = 0; i < kNRules; ++i)
        if (is_known(gate, i))
          known.push_back(std::string(kRuleWords[i].vote) + " " + kRuleWords[i].blend);
    refuse("vote and blend: found '" + vote + " " + blend + "', expected one of: " + joined(known));
  }

  // A mask of an expert's shape.
  static Tensor mask_of(Name name, Tensor mask, const Values& like) {
    Tensor found = bytes<Device>(name, std::move(mask), aoti_torch_dtype_bool(), &like.tensor);
    same_shape(name, found, "its expert", like.tensor);
    return found;
  }

  static std::vector<Tensor> mask_rows(const char* name, Tensors masks,
                                       const std::vector<Values>& like) {
    check_length(name, masks.size(), like.size(), "tensor");
    std::vector<Tensor> found;
    for (std::size_t i = 0; i < like.size(); ++i)
      found.push_back(mask_of({name, i}, std::move(masks[i]), like[i]));
    return found;
  }

  static std::vector<const std::uint8_t*> addresses(const std::vector<Tensor>& masks) {
    std::vector<const std::uint8_t*> all;
    for (const Tensor& mask : masks) all.push_back(static_cast<const std::uint8_t*>(mask.data()));
    return all;
  }
};

}  // namespace tallies::torch
