// The operators: check, allocate, and hand pointers to the kernels of a device.
//
// A Device has type() and kName, a Stream made of the device's index on which its kernels are
// queued, and the static functions called here, which take their inputs as checked and contiguous
// and fill the whole output. cpu.h is one.
#pragma once

#include "core/float_env.h"
#include "torch/change_checks.h"
#include "torch/many.h"

namespace tallies::torch {

template <class Device>
struct Operators : ManyOperators<Device> {
  using Stream = typename Device::Stream;

  static Tensor kth_magnitude(Tensor x, std::int64_t k) {
    const Values given = values<Device>("x", std::move(x));
    if (given.n == 0) refuse("x: found no elements, expected at least one to rank");
    const std::size_t rank = whole("k", k, 1, static_cast<std::int64_t>(given.n));
    Tensor out = empty({}, aoti_torch_dtype_float32(), given.tensor);
    Stream stream(given.tensor);
    Device::kth_magnitude(stream, given.view, given.n, rank,
                          static_cast<float*>(out.mutable_data()));
    return out;
  }

  static Tensor trim(Tensor x, double density, Text equal) {
    const Values given = values<Device>("x", std::move(x));
    Tensor out = empty_like(given.tensor);
    const ArrayMerge merge = trim_of(given, density, keeps_exactly(equal), out);
    Stream stream(given.tensor);
    Device::trim(stream, merge);
    return out;
  }

  static Tensor magnitude_mask(Tensor x, double threshold) {
    const Values given = values<Device>("x", std::move(x));
    // Only NaN reaches NaN.
    std::int32_t floor = kInfinityBits;
    if (threshold == threshold) {
      number("threshold", threshold, 0, INFINITY, "a number of 0 or more");
      floor = std::bit_cast<std::int32_t>(std::abs(static_cast<float>(threshold))) - 1;
    }
    Tensor out = empty_mask(given.n, given.tensor);
    Stream stream(given.tensor);
    Device::magnitude_mask(stream, given.view, given.n, floor, bytes_of(out));
    return out;
  }

  static Tensor tall_mask(Tensor expert_delta, Tensor merged_delta, double lam) {
    const Values x = values<Device>("expert_delta", std::move(expert_delta));
    const Values m = values<Device>("merged_delta", std::move(merged_delta), &x.tensor);
    same_shape("merged_delta", m.tensor, "expert_delta", x.tensor);
    number("lam", lam, 0, kLargest, "a finite number of 0 or more");
    Tensor out = empty_mask(x.n, x.tensor);
    Stream stream(x.tensor);
    Device::tall_mask(stream, x.view, m.view, x.n, static_cast<float>(lam), bytes_of(out));
    return out;
  }

  static Tensor consensus_mask(std::vector<Tensor> packed_masks, std::int64_t n, std::int64_t k) {
    const std::size_t n_elements = whole("n", n, 0, std::int64_t(1) << 62);
    const std::size_t at_least = whole("k", k, 0, 0x7fffffff);
    check_count("packed_masks", packed_masks.size());
    std::vector<Tensor> masks;
    std::vector<const std::uint8_t*> rows;
    for (std::size_t i = 0; i < packed_masks.size(); ++i) {
      masks.push_back(packed<Device>({"packed_masks", i}, std::move(packed_masks[i]), n_elements,
                                     i > 0 ? &masks[0] : nullptr));
      rows.push_back(static_cast<const std::uint8_t*>(masks[i].data()));
    }
    Tensor out = empty_mask(n_elements, masks[0]);
    Stream stream(masks[0]);
    Device::consensus_mask(stream, rows, static_cast<int>(at_least), n_elements, bytes_of(out));
    return out;
  }

  static Tensor pack_bits(Tensor mask) {
    const Tensor bits = bytes<Device>("mask", std::move(mask), aoti_torch_dtype_bool());
    Tensor out = empty_mask(bits.n(), bits);
    Stream stream(bits);
    Device::pack_bits(stream, bytes_of(bits), bits.n(), bytes_of(out));
    return out;
  }

  static Tensor unpack_bits(Tensor packed_mask, std::int64_t n) {
    const std::size_t n_elements = whole("n", n, 0, std::int64_t(1) << 62);
    const Tensor mask = packed<Device>("packed", std::move(packed_mask), n_elements);
    Tensor out = empty({&n, 1}, aoti_torch_dtype_bool(), mask);
    Stream stream(mask);
    Device::unpack_bits(stream, bytes_of(mask), n_elements, bytes_of(out));
    return out;
  }

  static void change_elements_(Tensor elements, Tensor positions, Tensor blocks, Tensor values,
                               Text layout, Text coding) {
    ElementChanges given =
        element_changes<Device>(std::move(elements), std::move(positions), std::move(blocks),
                                std::move(values), layout, coding);
    Stream stream(given.elements);
    Device::change_elements(stream, given);
  }

  static Tensor apply_mask(Tensor base, Tensor shared, Tensor packed_mask, double scale) {
    const Values origin = values<Device>("base", std::move(base));
    const Values added = values<Device>("shared", std::move(shared), &origin.tensor);
    same_shape("shared", added.tensor, "base", origin.tensor);
    const Tensor mask = packed<Device>("packed", std::move(packed_mask), origin.n, &origin.tensor);
    const float factor = finite("scale", scale);
    Tensor out = empty_like(origin.tensor);
    Stream stream(origin.tensor);
    Device::apply_mask(stream, origin.view, added.view, bytes_of(mask), factor, origin.n,
                       out.mutable_data());
    return out;
  }

  static Tensor elect_signs(std::vector<Tensor> deltas, std::optional<Numbers> given_weights,
                            Text vote, Text zero) {
    const std::vector<Values> given = rows<Device>("deltas", std::move(deltas), DTypes::equal);
    const std::vector<float> factors = weights(given_weights, given.size());
    static const std::vector<std::string> votes = {"sum", "count"};
    const bool by_count = choice("vote", vote, votes) == 1;
    const ZeroSign policy = zero_sign(zero);
    const Values& first = given[0];
    Tensor out = empty(first.tensor.sizes(), aoti_torch_dtype_int8(), first.tensor);
    Stream stream(first.tensor);
    Device::elect_signs(stream, views(given), factors, by_count, policy.sign, policy.majority,
                        first.n, static_cast<std::int8_t*>(out.mutable_data()));
    return out;
  }

  static Tensor disjoint_merge(std::vector<Tensor> deltas, Tensor signs,
                               std::optional<Numbers> given_weights, Text blend) {
    const std::vector<Values> given = rows<Device>("deltas", std::move(deltas), DTypes::equal);
    const Values& first = given[0];
    const std::vector<float> factors = weights(given_weights, given.size());
    static const std::vector<std::string> words = {"mean", "sum", "max", "weighted_mean"};
    static constexpr Blend blends[] = {Blend::mean_of_agreeing, Blend::sum_of_agreeing,
                                       Blend::largest_agreeing, Blend::weighted_mean_of_agreeing};
    const Blend chosen = blends[choice("blend", blend, words)];
    const Tensor elected =
        bytes<Device>("signs", std::move(signs), aoti_torch_dtype_int8(), &first.tensor);
    same_shape("signs", elected, {"deltas", 0}, first.tensor);
    Tensor out = empty_like(first.tensor);
    Stream stream(first.tensor);
    Device::disjoint_merge(stream, views(given), factors,
                           static_cast<const std::int8_t*>(elected.data()), chosen, first.n,
                           out.mutable_data());
    return out;
  }

  static Tensor ties(Tensor base, std::vector<Tensor> experts, Numbers density, double scale,
                     std::optional<Numbers> given_weights, Text equal, Text semantics,
                     std::optional<std::int64_t> threads) {
    static const std::vector<std::string> known = {"paper", "mergekit"};
    const bool mergekit = choice("semantics", semantics, known) == 1;
    const bool exactly = keeps_exactly(equal) || mergekit;
    if (mergekit && equal == "first")
      refuse("parameters: equal: ties has it only in paper semantics; leave it out");
    const Blend mean = mergekit ? Blend::weighted_mean_of_agreeing : Blend::mean_of_agreeing;
    const ZeroSign zero = mergekit ? ZeroSign{1} : ZeroSign{-1, true};
    return merge({Gate::magnitude, Vote::sum, mean}, std::move(base), std::move(experts), density,
                 given_weights, scale, zero, exactly, mergekit, threads);
  }

  static Tensor combine(std::optional<Tensor> base, std::vector<Tensor> experts, Text gate,
                        Text vote, Text blend, std::optional<Numbers> density,
                        std::optional<Numbers> given_weights, double scale, Text zero, Text equal,
                        std::optional<std::int64_t> threads) {
    const Rule rule = compiled_rule(gate, vote, blend);
    if (rule.gate == Gate::all && density)
      refuse("density: found one, expected none: gate 'all' ranks nothing; leave it out");
    if (rule.gate != Gate::all && !density)
      refuse("density: missing, and gate '" + gate +
             "' needs a share from 0 to 1, or one for each expert");
    return merge(rule, std::move(base), std::move(experts),
                 density.value_or(Numbers(experts.size(), 1.0)), given_weights, scale,
                 zero_sign(zero), keeps_exactly(equal), false, threads);
  }

  // The same with one number for all words, each of which costs an allocation on either side, and
  // with one density and no weights.
  static Tensor merge_by_number(std::optional<Tensor> base, std::vector<Tensor> experts,
                                std::int64_t number, double density, double scale,
                                std::optional<std::int64_t> threads) {
    const NumberedRule numbered = numbered_rule(number);
    const Numbers shares(experts.size(), density);
    return merge(numbered.rule, std::move(base), std::move(experts), shares, std::nullopt, scale,
                 numbered.zero, numbered.exactly, numbered.at_least_one, threads);
  }

  static Tensor low_rank(Tensor base, Tensor left, Tensor right, double scale) {
    const Values origin = values<Device>("base", std::move(base));
    const Values first = values<Device>("left", std::move(left), &origin.tensor);
    const Values second = values<Device>("right", std::move(right), &origin.tensor);
    const FactorSizes sizes = factor_sizes(origin.tensor, first.tensor, second.tensor);
    const float factor = finite("scale", scale);
    Tensor out = empty_like(origin.tensor);
    Stream stream(origin.tensor);
    Device::low_rank(stream, {origin.view, first.view, second.view, sizes.n_rows, sizes.rank,
                              sizes.n_columns, factor, out.mutable_data()});
    return out;
  }

  static Tensor gram(std::vector<Tensor> deltas) {
    const std::vector<Values> given = rows<Device>("deltas", std::move(deltas), DTypes::equal);
    const std::int64_t n = static_cast<std::int64_t>(given.size()), sizes[] = {n, n};
    Tensor out = empty(sizes, aoti_torch_dtype_float64(), given[0].tensor);
    Stream stream(given[0].tensor);
    Device::gram(stream, views(given), given[0].n, static_cast<double*>(out.mutable_data()));
    return out;
  }

  static Tensor block_dots(Tensor grad, std::vector<Tensor> deltas) {
    const std::vector<Values> given = rows<Device>("deltas", std::move(deltas), DTypes::any);
    const Values along = values<Device>("grad", std::move(grad), &given[0].tensor);
    same_shape("grad", along.tensor, {"deltas", 0}, given[0].tensor);
    const std::int64_t n = static_cast<std::int64_t>(given.size());
    Tensor out = empty({&n, 1}, aoti_torch_dtype_float64(), along.tensor);
    Stream stream(along.tensor);
    Device::block_dots(stream, along.view, views(given), along.n,
                       static_cast<double*>(out.mutable_data()));
    return out;
  }

 private:
  static std::uint8_t* bytes_of(Tensor& x) { return static_cast<std::uint8_t*>(x.mutable_data()); }
  static const std::uint8_t* bytes_of(const Tensor& x) {
    return static_cast<const std::uint8_t*>(x.data());
  }

  static Tensor merge(Rule rule, std::optional<Tensor> base, std::vector<Tensor> experts,
                      const Numbers& density, const std::optional<Numbers>& given_weights,
                      double scale, ZeroSign zero, bool exactly, bool at_least_one,
                      std::optional<std::int64_t> threads) {
    std::optional<Values> origin;
    if (base) origin = values<Device>("base", std::move(*base));
    const std::vector<Values> given = rows<Device>("experts", std::move(experts), DTypes::any);
    const Values& like = origin ? *origin : given[0];
    if (origin) {
      check_place<Device>({"experts", 0}, given[0].tensor, origin->tensor);
      same_shape({"experts", 0}, given[0].tensor, "base", origin->tensor);
    }
    std::vector<float> factors = weights(given_weights, given.size());
    std::vector<Trim> kept = trims(density, given.size(), like.n, exactly, at_least_one);
    const float factor = finite("scale", scale);
    const int n_threads = threads ? static_cast<int>(whole("threads", *threads, 1, 1024)) : 0;
    Tensor out = empty_like(like.tensor);
    Stream stream(like.tensor);
    Device::merge(stream,
                  {rule, like.n, origin ? origin->view.data : nullptr, views(given),
                   std::move(factors), std::move(kept), exactly, factor, zero.sign, zero.majority,
                   out.mutable_data(), like.view.dtype, like.view.dtype},
                  n_threads);
    return out;
  }
};

// One operator for one device, as torch takes it.
struct Operator {
  const char* name;
  const char* schema;
  void (*boxed)(StableIValue* stack, std::uint64_t n_arguments, std::uint64_t n_results);
};

template <class Function>
void run(const char* name, Function* function, StableIValue* stack) {
  const FloatEnvironment environment;
  try {
    unbox_and_call(function, stack);
  } catch (const Error& error) {
    throw std::runtime_error(std::string("tallies::") + name + ": " + error.what());
  }
}

// Name and schema of every operator. X(name, schema). All may be positional: keywords cost time.
#define TALLIES_OPERATORS(X)                                                                    \
  X(kth_magnitude, "(Tensor x, SymInt k) -> Tensor")                                            \
  X(kth_magnitude_counted, "(Tensor x, SymInt k) -> (Tensor, Tensor)")                          \
  X(trim, "(Tensor x, float density, str equal=\"keep\") -> Tensor")                            \
  X(trim_counted, "(Tensor x, float density, str equal=\"first\") -> (Tensor, Tensor)")         \
  X(masked_mean, "(Tensor[] deltas, Tensor[] masks, float[]? weights=None) -> Tensor")          \
  X(combine_many,                                                                               \
    "(Tensor[]? bases, Tensor[] experts, int[] n_experts, str vote=\"none\", "                  \
    "str blend=\"sum\", float[]? density=None, Tensor[]? masks=None, float[]? weights=None, "   \
    "float[]? divisors=None, float scale=1.0, str zero=\"positive\", str equal=\"first\", "     \
    "bool at_least_one=False, bool deltas=False, ScalarType? dtype=None, int? threads=None) "   \
    "-> (Tensor[], Tensor, Tensor)")                                                            \
  X(magnitude_mask, "(Tensor x, float threshold) -> Tensor")                                    \
  X(tall_mask, "(Tensor expert_delta, Tensor merged_delta, float lam) -> Tensor")               \
  X(consensus_mask, "(Tensor[] packed_masks, SymInt n, SymInt k) -> Tensor")                    \
  X(pack_bits, "(Tensor mask) -> Tensor")                                                       \
  X(unpack_bits, "(Tensor packed, SymInt n) -> Tensor")                                         \
  X(change_elements_,                                                                           \
    "(Tensor(a!) elements, Tensor positions, Tensor blocks, Tensor values, str layout, "        \
    "str coding) -> ()")                                                                        \
  X(apply_mask, "(Tensor base, Tensor shared, Tensor packed, float scale=1.0) -> Tensor")       \
  X(elect_signs,                                                                                \
    "(Tensor[] deltas, float[]? weights=None, str vote=\"sum\", str zero=\"majority\") "        \
    "-> Tensor")                                                                                \
  X(disjoint_merge,                                                                             \
    "(Tensor[] deltas, Tensor signs, float[]? weights=None, str blend=\"mean\") -> Tensor")     \
  X(ties,                                                                                       \
    "(Tensor base, Tensor[] experts, float[] density, float scale=1.0, "                        \
    "float[]? weights=None, str equal=\"keep\", str semantics=\"paper\", int? threads=None) "   \
    "-> Tensor")                                                                                \
  X(combine,                                                                                    \
    "(Tensor? base, Tensor[] experts, str gate=\"magnitude\", str vote=\"sum\", "               \
    "str blend=\"mean_of_agreeing\", float[]? density=None, float[]? weights=None, "            \
    "float scale=1.0, str zero=\"majority\", str equal=\"keep\", int? threads=None) -> Tensor") \
  X(merge_by_number,                                                                            \
    "(Tensor? base, Tensor[] experts, int number, float density, float scale=1.0, "             \
    "int? threads=None) -> Tensor")                                                             \
  X(low_rank, "(Tensor base, Tensor left, Tensor right, float scale=1.0) -> Tensor")            \
  X(gram, "(Tensor[] deltas) -> Tensor")                                                        \
  X(block_dots, "(Tensor grad, Tensor[] deltas) -> Tensor")

template <class Device>
const std::vector<Operator>& operators() {
#define TALLIES_OPERATOR(name, schema)                                          \
  {#name, #name schema, [](StableIValue* stack, std::uint64_t, std::uint64_t) { \
     run(#name, &Operators<Device>::name, stack);                               \
   }},
  static const std::vector<Operator> all = {TALLIES_OPERATORS(TALLIES_OPERATOR)};
#undef TALLIES_OPERATOR
  return all;
}

}  // namespace tallies::torch
