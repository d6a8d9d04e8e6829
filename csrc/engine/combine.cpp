// Gate, vote and blend of every tile, with its tallies and fingerprints.

#include "engine/combine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "engine/cancelled.h"
#include "engine/pass.h"
#include "engine/piece_merger.h"
#include "engine/verifier.h"

namespace tallies {
namespace {

// Elements that are merged with one sign for cancelled votes and then the other, out of the cache.
constexpr std::size_t kPiece = 8192;

struct Scratch : MergeScratch {
  std::vector<float> unwritten;
  Verifier::Scratch guessed;
  // Per candidate; `others` are of the other sign for cancelled votes.
  std::vector<CombineTally> tallies, other_tallies, before;
  std::vector<std::vector<char>> others;
  std::vector<Lister> listers;
  std::vector<std::optional<ListedTile>> listed;

  void start(std::size_t n_candidates) {
    tallies.assign(n_candidates, {});
    other_tallies.assign(n_candidates, {});
    listed.assign(n_candidates, {});
    others.resize(std::max(others.size(), n_candidates));
    listers.resize(std::max(listers.size(), n_candidates));
  }
};

class Combine {
 public:
  Combine(const Plan& plan, const std::vector<CombineTask>& tasks, const CombineOptions& options,
          const Limits& limits, Verifier* verifier, Cancelled* cancelled)
      : plan_(plan),
        tasks_(tasks),
        options_(options),
        verifier_(verifier),
        // A device would have to be given the tile once more.
        cancelled_(limits.device_bytes > 0 ? nullptr : cancelled) {
    int n_units = 0;
    for (const CombineTask& task : tasks) {
      Job& job = jobs_.emplace_back(job_of(plan, task.slice));
      CombineResult& result = empty_.emplace_back();
      result.inputs.resize(plan.sources[task.slice.job].size());
      result.candidates.resize(task.candidates.size());
      for (const Candidate& candidate : task.candidates) {
        n_units = std::max(n_units, candidate.majority + 1);
        if (const auto* const stages = std::get_if<Stages>(&candidate.traits))
          job.grain = grain_of(*stages, job.grain);
      }
    }
    votes_ = std::make_unique<std::atomic<std::int64_t>[]>(static_cast<std::size_t>(n_units));
    for (std::size_t i = 0; i < options.votes.size() && i < static_cast<std::size_t>(n_units); ++i)
      votes_[i] = options.votes[i];
    if (limits.device_bytes > 0) accelerator_ = std::make_unique<Accelerator>(limits.n_threads);
    merger_.emplace(plan, options, accelerator_.get());
    for (const CombineTask& task : tasks)
      alike_.push_back(groups_alike(task.candidates, !accelerator_));
    if (cancelled != nullptr) forget(*cancelled);
  }

  std::vector<CombineResult> run(const Limits& limits, const Progress& progress) {
    return tallies::run<Scratch>(
        plan_.files, jobs_, limits, [&](std::uint64_t n) { return progress(n) && !stop_; }, empty_,
        [&](const Tile& tile, Scratch& scratch, CombineResult& part) {
          transform(tile, scratch, part);
        },
        accelerator_ ? accelerator_->pinned() : Memory{});
  }

 private:
  void forget(Cancelled& cancelled) const {
    for (std::size_t i = 0; i < tasks_.size(); ++i)
      for (std::size_t k = 0; k < tasks_[i].candidates.size(); ++k)
        if (const auto place = Cancelled::place_of(jobs_[i], k))
          cancelled.forget(*place, {tasks_[i].slice.first, tasks_[i].slice.n_elements});
  }

  void transform(const Tile& tile, Scratch& scratch, CombineResult& part) {
    const CombineTask& task = tasks_[tile.job];
    const Job& job = jobs_[tile.job];
    const bool writes = !job.outputs.empty();
    if (verifier_) verifier_->count(tile, scratch.guessed);
    if (!writes) scratch.unwritten.resize(tile.n);
    scratch.start(task.candidates.size());
    for (const Alike& alike : alike_[tile.job])
      merge_alike(tile, task, alike, writes, scratch, part.candidates);
    for (std::size_t k = 0; k < task.candidates.size(); ++k) {
      if (!options_.fingerprints || !writes) continue;
      const auto written = std::ranges::find(job.outputs, k, &Output::row);
      CandidateResult& result = part.candidates[k];
      Guessed& guessed = result.plus.ranges.empty() ? result.minus : result.plus;
      Lanes& lanes = guessed.ranges.empty() ? result.output : guessed.output;
      lanes = fingerprint(tile.out[k], *written, tile.first, tile.n);
      if (scratch.listed[k]) scratch.listed[k]->output = lanes;
    }
    if (options_.fingerprints && writes)
      part.inputs = fingerprint(tile, job, plan_.sources[task.slice.job]);
    for (std::size_t k = 0; k < task.candidates.size(); ++k)
      if (scratch.listed[k])
        cancelled_->add(*Cancelled::place_of(job, k), std::move(*scratch.listed[k]));
    if (verifier_) verifier_->remember(tile, part, scratch.guessed);
  }

  std::atomic<std::int64_t>& votes_of(const Candidate& candidate) const {
    return votes_[static_cast<std::size_t>(candidate.majority)];
  }

  // Merges candidates that differ in scale alone, or one.
  void merge_alike(const Tile& tile, const CombineTask& task, const Alike& alike, bool writes,
                   Scratch& scratch, std::vector<CandidateResult>& results) {
    const Candidate& candidate = task.candidates[alike[0]];
    const auto out = [&](std::size_t k) {
      return static_cast<char*>(writes ? tile.out[k] : scratch.unwritten.data());
    };
    int zero_sign = candidate.zero_sign;
    if (candidate.majority >= 0) zero_sign = votes_of(candidate).load() > 0 ? 1 : -1;
    const bool lists =
        candidate.majority >= 0 && writes && cancelled_ != nullptr && cancelled_->has_room();
    if (lists)
      merge_both(tile, task, alike, zero_sign, out, scratch);
    else
      merger_->merge(tile, task, alike, 0, tile.n, zero_sign, out, scratch, scratch.tallies);
    const CombineTally& tally = scratch.tallies[alike[0]];
    if (candidate.majority >= 0) {
      for (const std::size_t k : alike) votes_of(task.candidates[k]) += tally.sign_sum;
      // The tile's own votes count: of few tiles the first would else take a sign at random.
      const std::int64_t so_far = votes_of(candidate);
      const bool is_wrong = so_far != 0 && (so_far > 0) != (zero_sign > 0);
      if (tally.cancellations > 0 && is_wrong) {
        zero_sign = -zero_sign;
        if (lists) {
          take_others(alike, out, scratch);
        } else {
          for (const std::size_t k : alike) scratch.tallies[k] = {};
          merger_->merge(tile, task, alike, 0, tile.n, zero_sign, out, scratch, scratch.tallies);
        }
      }
      if (lists && tally.cancellations > 0) list(tile, alike, is_wrong, scratch);
    }
    for (const std::size_t k : alike) {
      CandidateResult& result = results[k];
      result.tally = scratch.tallies[k];
      if (result.tally.cancellations > 0)
        (zero_sign > 0 ? result.plus : result.minus).ranges.emplace_back(tile.first, tile.n);
      // A wrong guess may be the cause of an overflow.
      if (options_.stop_at_overflow && result.tally.overflow && task.unit < 0) stop_ = true;
    }
  }

  // Merges a tile with this sign for cancelled votes, and where there are some with the other.
  template <class Out>
  void merge_both(const Tile& tile, const CombineTask& task, const Alike& alike, int zero_sign,
                  const Out& out, Scratch& scratch) const {
    const std::size_t n_bytes = size_of(plan_.output_types[task.slice.job]);
    const CombineTally& tally = scratch.tallies[alike[0]];
    const auto others = [&](std::size_t k) { return scratch.others[k].data(); };
    for (const std::size_t k : alike) {
      scratch.others[k].resize(tile.n * n_bytes);
      scratch.listers[k].start();
    }
    const bool is_plain = PieceMerger::knows_others(task.candidates[alike[0]]);
    // Stages may need whole rows.
    const bool is_whole = std::holds_alternative<Stages>(task.candidates[alike[0]].traits);
    const std::size_t piece = is_whole ? std::max<std::size_t>(tile.n, 1) : kPiece;
    // Both signs at once take less time than a second merge, if votes cancelled in the piece
    // before.
    bool at_once = is_plain;
    for (std::size_t first = 0; first < tile.n; first += piece) {
      const std::size_t n = std::min(piece, tile.n - first);
      scratch.before = scratch.tallies;
      for (const std::size_t k : alike) scratch.tallies[k].overflow = false;
      merger_->merge(tile, task, alike, first, n, zero_sign, out, scratch, scratch.tallies, others,
                     at_once ? &scratch.other_tallies : nullptr);
      const bool differs = tally.cancellations > scratch.before[alike[0]].cancellations;
      if (differs && !at_once)
        merger_->merge(tile, task, alike, first, n, -zero_sign, others, scratch,
                       scratch.other_tallies);
      for (const std::size_t k : alike) {
        char* const other = others(k) + first * n_bytes;
        if (differs)
          scratch.listers[k].add(static_cast<std::uint32_t>(first), out(k) + first * n_bytes, other,
                                 n, n_bytes);
        else if (!at_once)
          std::memcpy(other, out(k) + first * n_bytes, n * n_bytes);
        scratch.other_tallies[k].overflow |= !differs && scratch.tallies[k].overflow;
        scratch.tallies[k].overflow |= scratch.before[k].overflow;
      }
      at_once = is_plain && differs;
    }
  }

  // Puts the results of the other sign in the place of those at hand.
  template <class Out>
  static void take_others(const Alike& alike, const Out& out, Scratch& scratch) {
    for (const std::size_t k : alike) {
      std::memcpy(out(k), scratch.others[k].data(), scratch.others[k].size());
      std::swap(scratch.tallies[k].overflow, scratch.other_tallies[k].overflow);
    }
  }

  // Lists where the results of a tile differ; other combines take those that are not finite.
  static void list(const Tile& tile, const Alike& alike, bool is_other, Scratch& scratch) {
    for (const std::size_t k : alike) {
      if (scratch.tallies[k].overflow || scratch.other_tallies[k].overflow) continue;
      scratch.listed[k] = scratch.listers[k].list_of({tile.first, tile.n});
      scratch.listed[k]->is_other = is_other;
    }
  }

  const Plan& plan_;
  const std::vector<CombineTask>& tasks_;
  const CombineOptions& options_;
  Verifier* const verifier_;
  Cancelled* const cancelled_;
  std::vector<Job> jobs_;  // one per task
  std::vector<CombineResult> empty_;
  std::unique_ptr<std::atomic<std::int64_t>[]> votes_;
  std::unique_ptr<Accelerator> accelerator_;
  std::optional<PieceMerger> merger_;
  std::vector<std::vector<Alike>> alike_;  // per task
  std::atomic<bool> stop_ = false;
};

}  // namespace

void join_neighbours(std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<Range> joined;
  for (const Range& range : ranges) {
    if (!joined.empty() && joined.back().first + joined.back().second == range.first)
      joined.back().second += range.second;
    else
      joined.push_back(range);
  }
  ranges = std::move(joined);
}

Guessed& Guessed::operator+=(const Guessed& part) {
  ranges.insert(ranges.end(), part.ranges.begin(), part.ranges.end());
  add(output, part.output);
  return *this;
}

std::vector<CombineResult> combine(const Plan& plan, const std::vector<CombineTask>& given,
                                   const CombineOptions& options, const Limits& limits,
                                   const Progress& progress, Guesses* guesses,
                                   Cancelled* cancelled) {
  std::vector<CombineTask> tasks = given;
  std::optional<Verifier> verifier;
  if (guesses != nullptr) verifier.emplace(plan, tasks, options, *guesses, cancelled);
  std::vector<CombineResult> results =
      Combine(plan, tasks, options, limits, verifier ? &*verifier : nullptr, cancelled)
          .run(limits, progress);
  for (CombineResult& result : results)
    for (CandidateResult& candidate : result.candidates) {
      join_neighbours(candidate.plus.ranges);
      join_neighbours(candidate.minus.ranges);
    }
  return results;
}

}  // namespace tallies
