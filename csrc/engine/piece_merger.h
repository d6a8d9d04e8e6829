// Merges pieces of tiles: gate, vote and blend of candidates that differ in scale alone, or of one.
#pragma once

#include <vector>

#include "engine/accelerator.h"
#include "engine/alike.h"
#include "engine/base_adder.h"
#include "engine/combine.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {

struct MergeScratch {
  Reader reader;
  BaseAdder adder;
  StageRunner stages;
  std::vector<float> merged;
  std::vector<Multiple> multiples, opposites;
  std::vector<std::uint8_t> masks;
  std::vector<std::int32_t> floors;
};

// Stands for results of the other sign that nobody asks for.
struct NoOthers {
  char* operator()(std::size_t) const { return nullptr; }
};

class PieceMerger {
 public:
  // Returns whether the results of both signs can be asked for at once.
  static bool knows_others(const Candidate& candidate) {
    return !std::holds_alternative<Stages>(candidate.traits) && !candidate.consensus;
  }

  // Merges on the device, if there is one, what is worth a copy there.
  PieceMerger(const Plan& plan, const CombineOptions& options, Accelerator* accelerator)
      : plan_(plan), options_(options), accelerator_(accelerator) {}

  // Merges n elements of a tile from `first` on with this sign for cancelled votes, and adds to the
  // tallies. Candidate k goes to out(k), and with the other sign to others(k) where there are
  // tallies for those, which are told of overflow alone.
  template <class Out, class Others = NoOthers>
  void merge(const Tile& tile, const CombineTask& task, const Alike& alike, std::size_t first,
             std::size_t n_elements, int zero_sign, const Out& out, MergeScratch& scratch,
             std::vector<CombineTally>& tallies, const Others& others = {},
             std::vector<CombineTally>* other_tallies = nullptr) const {
    const Candidate& candidate = task.candidates[alike[0]];
    // Weights hold for a row, and draws for a period of the random numbers.
    std::uint64_t row_length = std::holds_alternative<Draws>(candidate.traits) ? kPeriod : kWhole;
    if (candidate.row_length != 0) row_length = candidate.row_length;
    split_at_cutoffs(tile.first + first, n_elements, candidate.floors, candidate.cutoffs,
                     scratch.floors, [&](std::size_t begin, std::size_t n_same) {
                       begin += first;
                       split_at_rows(tile.first + begin, n_same, row_length,
                                     [&](std::uint64_t row, std::size_t at, std::size_t n) {
                                       const float* weights = candidate.weights.data();
                                       if (candidate.row_length != 0)
                                         weights += row * plan_.n_experts(task.slice.job);
                                       CombineArgs args =
                                           args_of(task, candidate, weights, scratch);
                                       args.zero_sign = zero_sign;
                                       merge_piece(tile, task, alike, args, begin + at, n, out,
                                                   scratch, tallies, others, other_tallies);
                                     });
                     });
  }

 private:
  // Returns the arguments of the kernels without arrays and elements.
  CombineArgs args_of(const CombineTask& task, const Candidate& candidate, const float* weights,
                      const MergeScratch& scratch) const {
    CombineArgs args{};
    args.weights = weights;
    args.floors = scratch.floors.data();
    args.n_experts = static_cast<int>(plan_.n_experts(task.slice.job));
    args.scale = candidate.scale;
    args.divisor = candidate.divisor;
    args.overflow = overflow_bits(plan_.output_types[task.slice.job]);
    if (const auto* const scores = std::get_if<Scores>(&candidate.traits)) {
      args.scores = scores->scores.data();
      args.agreement = scores->agreement;
    } else if (const auto* const draws = std::get_if<Draws>(&candidate.traits)) {
      args.draws = draws->draws.data();
    }
    return args;
  }

  int rule_of(const Candidate& candidate) const {
    return index_of(candidate.rule.value_or(options_.rule));
  }

  // Merges a piece of a tile for candidates that differ in scale alone, or one.
  template <class Out, class Others>
  void merge_piece(const Tile& tile, const CombineTask& task, const Alike& alike, CombineArgs& args,
                   std::size_t first, std::size_t n, const Out& tile_out, MergeScratch& scratch,
                   std::vector<CombineTally>& tallies, const Others& tile_others,
                   std::vector<CombineTally>* other_tallies) const {
    const Candidate& candidate = task.candidates[alike[0]];
    if (!knows_others(candidate)) {
      merge_deltas(tile, task, candidate, args, first, n, tile_out(alike[0]), scratch,
                   tallies[alike[0]]);
      return;
    }
    const int rule = rule_of(candidate);
    const std::vector<Source>& sources = plan_.sources[task.slice.job];
    const DType out_type = plan_.output_types[task.slice.job];
    const bool is_direct = is_fused(out_type) && stored_type(sources) == out_type;
    const bool has_others = other_tallies != nullptr;
    if (!is_direct) scratch.merged.resize((has_others ? 2 : 1) * alike.size() * kChunk);
    std::vector<Multiple>& multiples = scratch.multiples;
    multiples.clear();
    for (const std::size_t k : alike) multiples.push_back({task.candidates[k].scale, nullptr});
    std::vector<Multiple>& opposites = scratch.opposites;
    opposites.clear();
    if (has_others) opposites = multiples;
    CombineTally all;
    scratch.reader.for_each_rows(
        tile, first, n, sources, is_direct ? As::as_stored : As::float32,
        [&](const Rows& rows, std::size_t at, std::size_t count) {
          const auto out = [&](std::size_t i) -> char* {
            return tile_out(alike[i]) + at * size_of(out_type);
          };
          const auto other = [&](std::size_t i) -> char* {
            return tile_others(alike[i]) + at * size_of(out_type);
          };
          const auto merged = [&](std::size_t i) { return scratch.merged.data() + i * kChunk; };
          for (std::size_t i = 0; i < alike.size(); ++i)
            multiples[i].out = is_direct ? static_cast<void*>(out(i)) : merged(i);
          for (std::size_t i = 0; i < opposites.size(); ++i)
            opposites[i].out = is_direct ? static_cast<void*>(other(i)) : merged(alike.size() + i);
          args.base = plan_.has_base ? rows.values[0] : nullptr;
          args.experts = rows.values.data() + plan_.has_base;
          args.out = multiples[0].out;
          args.multiples = multiples.data();
          args.n_multiples = alike.size() > 1 ? static_cast<int>(alike.size()) : 0;
          args.opposites = opposites.data();
          args.n_opposites = static_cast<int>(opposites.size());
          args.n = count;
          args.first = tile.first + at;
          merge_rows(tile.worker, rows, rule, is_direct, args, all);
          const auto narrow = kernels().narrow[static_cast<int>(out_type)];
          for (std::size_t i = 0; i < alike.size() && !is_direct; ++i) {
            narrow(merged(i), out(i), count);
            if (has_others) narrow(merged(alike.size() + i), other(i), count);
          }
        });
    for (std::size_t i = 0; i < alike.size(); ++i) {
      tallies[alike[i]] += all;
      tallies[alike[i]].overflow |= multiples[i].overflow;
      if (has_others) (*other_tallies)[alike[i]].overflow |= opposites[i].overflow;
    }
  }

  // Merges on the device the rows that are worth a copy there.
  void merge_rows(int worker, const Rows& rows, int rule, bool may_move, const CombineArgs& args,
                  CombineTally& tally) const {
    const std::size_t n_bytes = args.n * size_of(rows.type) * rows.values.size();
    if (may_move && accelerator_ && n_bytes >= kLeastDeviceBytes)
      accelerator_->combine(worker, rows.type, rule, args, tally);
    else
      kernels().combine[static_cast<int>(rows.type)][rule](args, tally);
  }

  // Merges float32 deltas: the stages change the deltas of a chunk, the rule blends them, and the
  // merged delta keeps the elements that enough experts claim.
  void merge_deltas(const Tile& tile, const CombineTask& task, const Candidate& candidate,
                    CombineArgs args, std::size_t first, std::size_t n, void* tile_out,
                    MergeScratch& scratch, CombineTally& tally) const {
    const std::vector<Source>& sources = plan_.sources[task.slice.job];
    const DType out_type = plan_.output_types[task.slice.job];
    const auto* const stages = std::get_if<Stages>(&candidate.traits);
    const int rule = rule_of(candidate);
    const Source base = plan_.has_base ? sources[0] : Source{.form = Source::Form::zero};
    const std::size_t chunk = stages != nullptr ? chunk_elements(*stages) : kChunk;
    scratch.merged.resize(chunk);
    float* const merged = scratch.merged.data();
    const float scale = args.scale;
    const std::int32_t overflow = args.overflow;
    args.base = nullptr;
    args.scale = 1.0f;
    args.overflow = overflow_bits(DType::f32);
    args.out = merged;
    scratch.reader.for_each_rows(
        tile, first, n, sources, plan_.has_base ? As::deltas : As::copies,
        [&](const Rows& rows, std::size_t at, std::size_t count) {
          for (std::size_t e = 0; stages != nullptr && e < rows.deltas.size(); ++e)
            scratch.stages.run(*stages, e, rows.deltas[e], tile.first + at, count);
          args.experts = rows.values.data();
          args.first = tile.first + at;
          args.n = count;
          kernels().combine[static_cast<int>(DType::f32)][rule](args, tally);
          const std::uint8_t* const mask =
              candidate.consensus
                  ? claim(*candidate.consensus, rows.deltas, merged, chunk, count, scratch)
                  : nullptr;
          char* const out = static_cast<char*>(tile_out) + at * size_of(out_type);
          const std::int32_t largest =
              scratch.adder.add(tile, at, count, base, merged, mask, scale, out_type, out);
          tally.overflow |= largest >= overflow;
        },
        chunk);
  }

  // Returns the packed mask of the elements of a merged delta that enough experts claim.
  static const std::uint8_t* claim(const Consensus& rule, std::span<float* const> deltas,
                                   const float* merged, std::size_t chunk, std::size_t n,
                                   MergeScratch& scratch) {
    const std::size_t n_bytes = (chunk + 7) / 8, n_masks = deltas.size();
    scratch.masks.resize((n_masks + 1) * n_bytes);
    std::uint8_t* const claimed = scratch.masks.data();
    std::vector<const std::uint8_t*> masks;
    for (std::size_t e = 0; e < n_masks; ++e) {
      std::uint8_t* const mask = claimed + (e + 1) * n_bytes;
      kernels().tall_mask(deltas[e], merged, rule.lambdas[e], mask, n);
      masks.push_back(mask);
    }
    kernels().consensus_mask(masks.data(), static_cast<int>(n_masks), rule.at_least, claimed, n);
    return claimed;
  }

  const Plan& plan_;
  const CombineOptions& options_;
  Accelerator* const accelerator_;
};

}  // namespace tallies
