// The exact k-th largest magnitude of streamed task vectors, or of a number derived from them.
//
// A strided sample brackets each threshold (engine/search.h). One pass counts what lies at and
// above the ends of the bracket and lists the few patterns inside. Where that does not name the
// threshold, the proven range is narrowed by further passes: always exact, in memory that depends
// on neither model nor tensor size.

#include <algorithm>
#include <memory>

#include "engine/engine.h"
#include "engine/ranked_numbers.h"
#include "engine/search.h"
#include "engine/views.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Units of up to this many elements are read whole instead of being sampled: 64 Ki patterns are
// selected in memory in less time than another pass takes to start.
constexpr std::uint64_t kSmallUnit = 1 << 16;
constexpr std::uint64_t kSampleShare = 128;  // one element in so many
constexpr std::uint64_t kMaxSample = 1 << 19;
// Patterns that every search may list; together they may take as much memory as the buffers.
constexpr std::size_t kLeastRoom = 1 << 14;
// Stretches whose equal patterns are counted while they are searched for, times searches: 16 MiB.
constexpr std::size_t kMaxTried = std::size_t(1) << 20;

using Searches = std::vector<std::vector<std::unique_ptr<Search>>>;  // [unit][expert]

std::uint64_t n_elements(const Plan& plan, const Unit& unit) {
  std::uint64_t n = 0;
  for (const std::size_t job : unit.jobs) n += plan.jobs[job].n_elements;
  return n;
}

// Runs of a unit to be read as its sample: all of it when it is small, else evenly spaced.
struct SampleRun {
  std::size_t unit;
  std::size_t job;
  std::uint64_t first;
  std::size_t n;
  std::size_t at;  // where its patterns go in the sample
};

std::vector<SampleRun> sample_runs(const Plan& plan, const Unit& unit, std::size_t index,
                                   std::uint64_t n_all) {
  std::vector<SampleRun> runs;
  std::uint64_t every = kRun;
  if (n_all > kSmallUnit) {
    const std::uint64_t wanted = std::clamp(n_all / kSampleShare, kSmallUnit / 4, kMaxSample);
    every = n_all / (wanted / kRun);
  }
  std::uint64_t next = n_all > kSmallUnit ? every / 2 : 0, before = 0;
  std::size_t at = 0;
  for (const std::size_t job : unit.jobs) {
    const std::uint64_t n_job = plan.jobs[job].n_elements;
    for (; next < before + n_job; next += every) {
      const std::uint64_t first = next - before;
      const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(kRun, n_job - first));
      runs.push_back({index, job, first, n, at});
      at += n;
      // A run that meets the end of its job leaves the rest of a small unit to the next one.
      if (n_all <= kSmallUnit && n < kRun) {
        next = before + n_job;
        break;
      }
    }
    before += n_job;
  }
  return runs;
}

class Selection {
 public:
  Selection(const Plan& plan, const std::vector<Unit>& units, const Ranking& ranking, bool locate,
            const Limits& limits, const Progress& progress)
      : plan_(plan),
        units_(units),
        ranking_(ranking),
        locate_(locate),
        limits_(limits),
        progress_(progress) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    unit_of_.assign(plan.jobs.size(), ~std::size_t(0));
    std::size_t n_searches = 0;
    for (std::size_t u = 0; u < units.size(); ++u) {
      const bool is_small = n_elements(plan, units[u]) <= kSmallUnit;
      for (const std::size_t job : units[u].jobs) unit_of_[job] = u;
      auto& experts = searches_.emplace_back();
      for (const std::uint64_t rank : units[u].ranks) {
        auto& search = *experts.emplace_back(std::make_unique<Search>());
        search.rank = units[u].share > 0 ? 1 : rank;
        search.share = units[u].share;
        search.done = search.rank == 0;
        search.found.last_job = units[u].jobs.size();
        n_searches += !search.done && !is_small;
      }
      n_per_unit_ = std::max(n_per_unit_, experts.size());
    }
    const std::size_t n_bytes = limits.buffer_bytes * static_cast<std::size_t>(limits.n_threads);
    const std::size_t room = n_bytes / sizeof(std::uint32_t) / std::max<std::size_t>(n_searches, 1);
    for (const auto& experts : searches_)
      for (const auto& search : experts) search->room = std::max(room, kLeastRoom);
    surveys_ = plan.jobs;
    for (Job& job : surveys_) job.outputs.clear();
  }

  std::vector<std::vector<Threshold>> run() {
    // A few experts' samples are held at a time, so that 64 experts take no more memory than 4.
    for (std::size_t first = 0; first < n_per_unit_; first += kSampledTogether)
      if (!sample(first, std::min(first + kSampledTogether, n_per_unit_))) return {};
    for (;;) {
      const std::vector<std::size_t> open = jobs_if([](const Search& s) { return !s.done; });
      if (open.empty()) break;
      if (!pass(open)) return {};
    }
    if (locate_ && !cut_off()) return {};
    std::vector<std::vector<Threshold>> found;
    for (const auto& experts : searches_) {
      auto& row = found.emplace_back();
      for (const auto& search : experts) row.push_back(search->found);
    }
    return found;
  }

 private:
  static constexpr std::size_t kSampledTogether = 4;

  // Which number of an element a search ranks.
  std::size_t number_of(std::size_t job, std::size_t search) const {
    return search % ranking_.n_numbers(plan_.n_experts(job));
  }

  template <class Test>
  std::vector<std::size_t> jobs_if(const Test& test) const {
    std::vector<std::size_t> jobs;
    for (std::size_t u = 0; u < units_.size(); ++u)
      if (std::any_of(searches_[u].begin(), searches_[u].end(),
                      [&](const auto& s) { return s->rank > 0 && test(*s); }))
        jobs.insert(jobs.end(), units_[u].jobs.begin(), units_[u].jobs.end());
    return jobs;
  }

  // Samples of experts [from, to) of every unit.
  bool sample(std::size_t from, std::size_t to) {
    std::vector<SampleRun> runs;
    std::vector<std::vector<std::vector<std::uint32_t>>> samples(units_.size());
    for (std::size_t u = 0; u < units_.size(); ++u) {
      samples[u].resize(searches_[u].size());
      if (std::none_of(units_[u].ranks.begin(), units_[u].ranks.end(),
                       [](std::uint64_t rank) { return rank > 0; }))
        continue;
      const auto of_unit = sample_runs(plan_, units_[u], u, n_elements(plan_, units_[u]));
      runs.insert(runs.end(), of_unit.begin(), of_unit.end());
      const std::size_t n = of_unit.empty() ? 0 : of_unit.back().at + of_unit.back().n;
      for (std::size_t e = from; e < std::min(to, searches_[u].size()); ++e)
        if (searches_[u][e]->rank > 0) samples[u][e].resize(n);
    }
    // Each run is a small job of its own, over the base and these experts.
    std::vector<Job> jobs;
    std::vector<std::size_t> order;
    for (const SampleRun& run : runs) {
      Job job = surveys_[run.job];
      job.n_elements = run.n;
      for (Array& a : job.inputs) a.offset = a.at(run.first);
      order.push_back(jobs.size());
      std::vector<Array> kept;
      for (const std::size_t i : kept_inputs(run.job, from, to)) kept.push_back(job.inputs[i]);
      job.inputs = std::move(kept);
      jobs.push_back(std::move(job));
    }
    Limits whole_runs = limits_;
    whole_runs.buffer_bytes = std::max(limits_.buffer_bytes, kRun * 8 * (kSampledTogether + 1));
    const Tiling tiling(jobs, order, whole_runs);
    const bool finished = stream(
        plan_.files, jobs, tiling, whole_runs,
        [&](const Tile& tile) {
          const SampleRun& run = runs[tile.job];
          Tile of_job = tile;
          of_job.job = run.job;
          of_job.first += run.first;
          std::vector<const void*> in(plan_.jobs[run.job].inputs.size());
          const std::vector<std::size_t> kept = kept_inputs(run.job, from, to);
          for (std::size_t i = 0; i < kept.size(); ++i) in[kept[i]] = tile.in[i];
          of_job.in = in.data();
          Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
          std::vector<std::uint32_t*> patterns(searches_[run.unit].size());
          for (std::size_t s = from; s < std::min(to, patterns.size()); ++s)
            if (searches_[run.unit][s]->rank > 0)
              patterns[s] = samples[run.unit][s].data() + run.at + tile.first;
          list_patterns(of_job, patterns, scratch);
        },
        progress_);
    if (!finished) return false;
    const std::size_t n_experts = to - from;
    parallel_for(units_.size() * n_experts, limits_.n_threads, [&](std::size_t i) {
      const std::size_t u = i / n_experts, e = from + i % n_experts;
      if (e >= searches_[u].size() || searches_[u][e]->done) return;
      const std::uint64_t n_all = n_elements(plan_, units_[u]);
      if (n_all <= kSmallUnit) {
        searches_[u][e]->learn_from_all(samples[u][e]);
        if (locate_) cut_off_among(units_[u], samples[u][e], *searches_[u][e]);
      } else {
        searches_[u][e]->guess_from(samples[u][e], n_all);
      }
    });
    return true;
  }

  // Where the last kept one of several equal magnitudes lies, among all patterns of the unit.
  void cut_off_among(const Unit& unit, const std::vector<std::uint32_t>& patterns,
                     Search& search) const {
    if (!search.is_cut()) return;
    Threshold& found = search.found;
    std::uint64_t at = 0, left = search.n_of_equal();
    while (left > 0) left -= patterns[at++] == static_cast<std::uint32_t>(found.bits);
    for (found.last_job = 0; at > plan_.jobs[unit.jobs[found.last_job]].n_elements;)
      at -= plan_.jobs[unit.jobs[found.last_job++]].n_elements;
    found.last_count = at;
  }

  // Inputs of a job that searches [from, to) look at.
  std::vector<std::size_t> kept_inputs(std::size_t job, std::size_t from, std::size_t to) const {
    std::vector<bool> keep(plan_.jobs[job].inputs.size(), ranking_.is_derived());
    if (plan_.has_base) keep[0] = true;
    to = std::min(to, searches_[unit_of_[job]].size());
    for (std::size_t s = from; s < to; ++s) keep[number_of(job, s) + plan_.has_base] = true;
    std::vector<std::size_t> kept;
    for (std::size_t i = 0; i < keep.size(); ++i)
      if (keep[i]) kept.push_back(i);
    return kept;
  }

  // The patterns of a tile for each search that has room for them.
  void list_patterns(const Tile& tile, const std::vector<std::uint32_t*>& out, Scratch& scratch) {
    if (!ranking_.is_derived()) {
      for (std::size_t s = 0; s < out.size(); ++s)
        if (out[s] != nullptr)
          list_magnitudes(plan_, tile, number_of(tile.job, s), scratch, out[s]);
      return;
    }
    scratch.derived.for_each_chunk(
        plan_, tile, ranking_,
        [&](const auto& rows, const auto&, std::size_t first, std::size_t n) {
          for (std::size_t s = 0; s < out.size(); ++s)
            if (out[s] != nullptr)
              kernels().magnitudes[0](nullptr, rows[number_of(tile.job, s)], n, out[s] + first);
        });
  }

  // Surveys a tile for each search of its unit that is wanted, between the ends that ends(search)
  // gives, and calls add(index, tally, interior, largest).
  template <class Wanted, class Ends, class Add>
  void survey(const Tile& tile, Scratch& scratch, const Wanted& wanted, const Ends& ends,
              const Add& add) {
    const auto& searches = searches_[unit_of_[tile.job]];
    if (!ranking_.is_derived()) {
      for (std::size_t s = 0; s < searches.size(); ++s) {
        if (!wanted(*searches[s])) continue;
        const auto [low, high] = ends(*searches[s]);
        SurveyTally tally;
        survey_tile(plan_, tile, number_of(tile.job, s), low, high, scratch, tally);
        add(s, tally, scratch.patterns.data(), 0);
      }
      return;
    }
    auto& found = scratch.found;
    found.resize(std::max(found.size(), searches.size()));
    for (std::size_t s = 0; s < searches.size(); ++s) {
      found[s].interior.resize(tile.n + kInteriorSlack);
      found[s].tally = {};
      found[s].largest = 0;
    }
    scratch.derived.for_each_chunk(
        plan_, tile, ranking_,
        [&](const auto& rows, const auto& largest, std::size_t, std::size_t n) {
          for (std::size_t s = 0; s < searches.size(); ++s) {
            if (!wanted(*searches[s])) continue;
            const auto [low, high] = ends(*searches[s]);
            const std::size_t number = number_of(tile.job, s);
            std::uint32_t* const interior = found[s].interior.data() + found[s].tally.n_interior;
            SurveyTally tally;
            if (searches[s]->share > 0) {
              kernels().survey[0]({nullptr, rows[number], n, 1, 1, interior}, tally);
              searches[s]->count_nonzero(tally.from_low);
              tally = {};
            }
            kernels().survey[0]({nullptr, rows[number], n, low, high, interior}, tally);
            found[s].tally += tally;
            found[s].largest = std::max(found[s].largest, largest[number]);
          }
        });
    for (std::size_t s = 0; s < searches.size(); ++s)
      if (wanted(*searches[s])) add(s, found[s].tally, found[s].interior.data(), found[s].largest);
  }

  bool pass(const std::vector<std::size_t>& jobs) {
    const Tiling tiling(surveys_, jobs, limits_);
    const std::size_t n_tried = tiling.n_tiles() * n_per_unit_;
    std::vector<Tried> tried(locate_ && n_tried <= kMaxTried ? n_tried : 0);
    const bool finished = stream(
        plan_.files, surveys_, tiling, limits_,
        [&](const Tile& tile) {
          const auto& searches = searches_[unit_of_[tile.job]];
          survey(
              tile, scratch_[static_cast<std::size_t>(tile.worker)],
              [](const Search& search) { return !search.done; },
              [](const Search& search) { return std::pair(search.try_low, search.try_high); },
              [&](std::size_t s, const SurveyTally& tally, const std::uint32_t* interior,
                  std::int32_t largest) {
                const Tried part = searches[s]->add(tally, interior, largest);
                if (!tried.empty()) tried[tile.number * n_per_unit_ + s] = part;
              });
        },
        progress_);
    if (!finished) return false;
    std::vector<std::pair<std::size_t, std::size_t>> open;
    for (std::size_t u = 0; u < units_.size(); ++u)
      for (std::size_t s = 0; s < searches_[u].size(); ++s)
        if (!searches_[u][s]->done) open.emplace_back(u, s);
    parallel_for(open.size(), limits_.n_threads,
                 [&](std::size_t i) { searches_[open[i].first][open[i].second]->learn(); });
    for (const auto& [u, s] : open) {
      Search& search = *searches_[u][s];
      if (!search.done) continue;
      if (!tried.empty() && search.is_cut() && search.knows_equal())
        cut_off_in(tiling, u, s,
                   [&](std::size_t tile) { return search.n_equal(tried[tile * n_per_unit_ + s]); });
      search.forget();
    }
    return true;
  }

  // The cut-offs that passes did not find: equal ones are counted per tile.
  bool cut_off() {
    const auto is_open = [&](const Search& search) {
      return search.is_cut() && search.found.last_count == 0;
    };
    const std::vector<std::size_t> jobs = jobs_if(is_open);
    const Tiling tiling(surveys_, jobs, limits_);
    std::vector<std::uint32_t> n_equal(tiling.n_tiles() * n_per_unit_);
    const bool finished = stream(
        plan_.files, surveys_, tiling, limits_,
        [&](const Tile& tile) {
          survey(
              tile, scratch_[static_cast<std::size_t>(tile.worker)], is_open,
              [](const Search& search) { return std::pair(search.found.bits, search.found.bits); },
              [&](std::size_t s, const SurveyTally& tally, const std::uint32_t*, std::int32_t) {
                n_equal[tile.number * n_per_unit_ + s] =
                    static_cast<std::uint32_t>(tally.from_low - tally.above_low);
              });
        },
        progress_);
    if (!finished) return false;
    for (std::size_t u = 0; u < units_.size(); ++u)
      for (std::size_t s = 0; s < searches_[u].size(); ++s)
        if (is_open(*searches_[u][s]))
          cut_off_in(tiling, u, s,
                     [&](std::size_t tile) { return n_equal[tile * n_per_unit_ + s]; });
    return true;
  }

  // Where the last kept one of several equal magnitudes lies: the tile in which the rank is reached
  // is read again. n_equal(tile) is how many are equal in each.
  template <class Count>
  void cut_off_in(const Tiling& tiling, std::size_t unit, std::size_t s, const Count& n_equal) {
    Search& search = *searches_[unit][s];
    std::uint64_t left = search.n_of_equal();
    for (std::size_t number = 0; number < tiling.n_tiles(); ++number) {
      const Tiling::Range range = tiling.range(number);
      if (unit_of_[range.job] != unit) continue;
      const std::uint64_t here = n_equal(number);
      if (here < left) {
        left -= here;
        continue;
      }
      const auto& order = units_[unit].jobs;
      search.found.last_job =
          static_cast<std::size_t>(std::ranges::find(order, range.job) - order.begin());
      search.found.last_count = range.first + count_to(range, s, search.found.bits, left);
      return;
    }
  }

  // Elements of the range up to and with the n-th one of these bits.
  std::uint64_t count_to(const Tiling::Range& range, std::size_t search, std::int32_t bits,
                         std::uint64_t n) {
    const Job& job = surveys_[range.job];
    std::vector<std::vector<char>> buffers(job.inputs.size());
    std::vector<const void*> in(job.inputs.size());
    const std::vector<std::size_t> kept = kept_inputs(range.job, search, search + 1);
    for (std::size_t i = 0; i < job.inputs.size(); ++i) {
      if (std::ranges::find(kept, i) == kept.end()) continue;
      buffers[i].resize(job.inputs[i].n_bytes(range.n));
      in[i] = fetch(plan_.files, job.inputs[i], range.first, range.n, buffers[i].data());
    }
    const Tile tile{range.job, range.first, range.n, in.data(), nullptr, 0, 0};
    std::vector<std::uint32_t> patterns(range.n);
    std::vector<std::uint32_t*> out(searches_[unit_of_[range.job]].size());
    out[search] = patterns.data();
    list_patterns(tile, out, scratch_[0]);
    std::size_t i = 0;
    for (; n > 0 && i < patterns.size(); ++i) n -= patterns[i] == static_cast<std::uint32_t>(bits);
    return i;
  }

  const Plan& plan_;
  const std::vector<Unit>& units_;
  const Ranking& ranking_;
  const bool locate_;
  const Limits& limits_;
  const Progress& progress_;
  std::vector<Job> surveys_;
  std::vector<std::size_t> unit_of_;
  Searches searches_;
  std::size_t n_per_unit_ = 0;  // searches, at most
  std::vector<Scratch> scratch_;
};

}  // namespace

std::vector<std::vector<Threshold>> select(const Plan& plan, const std::vector<Unit>& units,
                                           const Ranking& ranking, bool locate,
                                           const Limits& limits, const Progress& progress) {
  return Selection(plan, units, ranking, locate, limits, progress).run();
}

}  // namespace tallies
