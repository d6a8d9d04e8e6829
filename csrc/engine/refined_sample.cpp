#include "engine/refined_sample.h"

#include <algorithm>

#include "engine/sample_runs.h"

namespace tallies {
namespace {

// One element in so many is in the sample, and what a bracket is made of is read twice.
constexpr std::uint64_t kShare = 64;

class Refining {
 public:
  Refining(const RankedUnits& ranked, Selection& selection, bool locate, const Limits& limits,
           const Progress& progress)
      : ranked_(ranked),
        selection_(selection),
        locate_(locate),
        limits_(limits),
        progress_(progress),
        rounds_(ranked, selection, limits, progress) {}

  bool run() {
    std::size_t job = 0;
    for (std::size_t u = 0; u < selection_.groups.size(); ++u) {
      const auto& [n_all, searches] = selection_.groups[u];
      UnitSample& unit = units_.emplace_back();
      unit.begin = runs_.size();
      // A bracket of one pattern has its guess already, but not its cut-off.
      const auto is_known = [&](const Search& search) {
        return search.done || (!locate_ && search.tried.low == search.tried.high);
      };
      if (!std::ranges::all_of(searches, is_known))
        unit.n = append_runs(ranked_, u, job, n_all, std::max(n_all / kShare, sample_size(n_all)),
                             runs_);
      unit.end = runs_.size();
      job += ranked_.units()[u].slices.size();
    }
    if (!count()) return false;
    for (std::size_t u = 0; u < selection_.groups.size(); ++u)
      for (std::size_t s = 0; s < selection_.groups[u].searches.size(); ++s) learn(u, s);
    return true;
  }

 private:
  struct UnitSample {
    std::size_t n = 0;               // elements
    std::size_t begin = 0, end = 0;  // of its runs
  };
  struct Scratch {
    NumberScratch numbers;
    std::vector<Wanted> wanted;
  };

  bool count() {
    std::vector<Job> jobs;
    std::size_t n_inputs = 0;
    for (const SampleRun& run : runs_) {
      jobs.push_back(ranked_.part_of(run.job, run.first, run.n, 0, ranked_.n_searches()));
      n_inputs = std::max(n_inputs, jobs.back().inputs.size());
    }
    Limits whole_runs = limits_;
    whole_runs.buffer_bytes = std::max(limits_.buffer_bytes, kRun * 8 * n_inputs);
    tried_.resize(locate_ ? runs_.size() * ranked_.n_searches() : 0);
    Parts<Counted> parts(rounds_.start());
    const bool finished = for_each_tile<Scratch>(
        ranked_.plan().files, jobs, Tiling(jobs, whole_runs), whole_runs, progress_,
        [&](const Tile& tile, Scratch& scratch) {
          Tile of_unit = tile;
          of_unit.job = runs_[tile.job].job;
          const std::size_t unit = ranked_.unit_of(of_unit.job);
          const std::vector<Search>& searches = selection_.groups[unit].searches;
          scratch.wanted.clear();
          for (std::size_t s = 0; s < searches.size(); ++s)
            if (!searches[s].done) scratch.wanted.push_back({s, searches[s].tried, false});
          const auto add = [&](std::size_t s, const TileCount& count) {
            const AtBracket found = parts.change(rounds_.index_of(unit, s),
                                                 [&](Counted& part) { return part.add(count); });
            if (locate_) tried_[tile.job * ranked_.n_searches() + s] = found;
          };
          ranked_.count(scratch.wanted, of_unit, scratch.numbers, add);
        });
    counts_ = parts.take();
    return finished;
  }

  void learn(std::size_t unit, std::size_t s) {
    Search& search = selection_.groups[unit].searches[s];
    const Counted& counted = counts_[rounds_.index_of(unit, s)];
    const std::uint64_t n_all = selection_.groups[unit].n_elements;
    if (search.done || units_[unit].n == 0 || !counted.bins.empty()) return;
    const auto n = static_cast<double>(units_[unit].n);
    const double rank = static_cast<double>(search.rank) / static_cast<double>(n_all) * n;
    search.refine(counted, rank, n, static_cast<double>(sample_size(n_all)));
    if (locate_) cut_off(units_[unit], s, counted, rank, search);
  }

  // Guesses the element up to which equal ones pass: where those of the sample reach the rank.
  void cut_off(const UnitSample& unit, std::size_t s, const Counted& counted, double rank,
               Search& search) const {
    double left = rank - static_cast<double>(counted.n_above(search.guess.bits));
    for (std::size_t i = unit.begin; i < unit.end; ++i) {
      const SampleRun& run = runs_[i];
      const auto here = static_cast<double>(
          counted.n_equal(search.guess.bits, tried_[i * ranked_.n_searches() + s]));
      if (here < left || here == 0) {
        left -= here;
        continue;
      }
      search.guess.last_job = ranked_.position_of(run.job);
      search.guess.last_count = run.first + static_cast<std::uint64_t>(std::max(left, 0.0) / here *
                                                                       static_cast<double>(run.n));
      return;
    }
  }

  const RankedUnits& ranked_;
  Selection& selection_;
  const bool locate_;
  const Limits& limits_;
  const Progress& progress_;
  const Rounds rounds_;
  std::vector<SampleRun> runs_;
  std::vector<UnitSample> units_;
  std::vector<AtBracket> tried_;  // of each run, with `locate`
  std::vector<Counted> counts_;
};

}  // namespace

bool refine(const RankedUnits& ranked, Selection& selection, bool locate, const Limits& limits,
            const Progress& progress) {
  return Refining(ranked, selection, locate, limits, progress).run();
}

}  // namespace tallies
