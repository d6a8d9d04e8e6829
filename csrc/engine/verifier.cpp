#include "engine/verifier.h"

#include <algorithm>
#include <cstring>

namespace tallies {
namespace {

// Turns the counts of a bracket that begins one pattern early into those of the bracket.
void begin_at(std::int32_t low, TileCount& count) {
  const auto end = count.interior.begin() + static_cast<std::ptrdiff_t>(count.tally.n_interior);
  const auto inside = std::remove(count.interior.begin(), end, static_cast<std::uint32_t>(low));
  const auto n_low = static_cast<std::size_t>(end - inside);
  count.tally.from_low = count.tally.above_low;
  count.tally.above_low -= n_low;
  count.tally.n_interior -= n_low;
}

bool is_band(const Stage& stage) { return std::holds_alternative<Band>(stage); }

// Returns whether an element's result depends on nothing but its inputs, the numbers of the
// candidate, and where floors are cut off.
bool is_plain(const Candidate& candidate, const Rule& rule) {
  const auto* const stages = std::get_if<Stages>(&candidate.traits);
  return (std::holds_alternative<std::monostate>(candidate.traits) ||
          (stages != nullptr && std::ranges::all_of(stages->stages, is_band))) &&
         candidate.rule.value_or(rule).gate != Gate::variance;
}

}  // namespace

std::vector<Unit> Verifier::units_of(const std::vector<CombineTask>& tasks,
                                     const Guesses& guesses) {
  std::vector<Unit> units;
  for (const CombineTask& task : tasks) {
    units.push_back({{task.slice}, {}});
    if (task.unit >= 0)
      units.back().ranks = guesses.units[static_cast<std::size_t>(task.unit)].ranks;
  }
  return units;
}

Verifier::Verifier(const Plan& plan, std::vector<CombineTask>& tasks, const CombineOptions& options,
                   Guesses& guesses, const Cancelled* cancelled)
    : plan_(plan),
      tasks_(tasks),
      guesses_(guesses),
      cancelled_(cancelled),
      first_(guesses.tasks.size()),
      units_(units_of(tasks, guesses)),
      ranked_(plan, units_, ranking_),
      counts_(std::move(guesses.counts)) {
  for (CombineTask& task : tasks) {
    std::size_t position = 0;
    if (task.unit >= 0) {
      const auto u = static_cast<std::size_t>(task.unit);
      position = position_in(guesses.units[u], task);
      const std::size_t n = guesses.units[u].ranks.size();
      set_floors(task.candidates, guesses.units[u], position,
                 std::span(guesses.guessed).subspan(guesses.first[u], n));
    }
    const DType out = plan.output_types[task.slice.job];
    const bool is_direct = is_fused(out) && stored_type(plan.sources[task.slice.job]) == out;
    const bool is_listed = std::ranges::all_of(task.candidates, [&](const Candidate& one) {
      return one.searches.empty() || is_plain(one, options.rule);
    });
    guesses.tasks.push_back({task,
                             options.rule,
                             options.fingerprints,
                             position,
                             is_listed,
                             is_direct,
                             is_direct ? out : DType::f32,
                             {}});
  }
}

Verifier::~Verifier() { guesses_.counts = counts_.take(); }

void Verifier::count(const Tile& tile, Scratch& scratch) {
  scratch.open.clear();
  scratch.wanted.clear();
  const CombineTask& task = tasks_[tile.job];
  if (task.unit < 0) return;
  const auto unit = static_cast<std::size_t>(task.unit);
  const std::vector<Search>& searches = guesses_.selection.groups[unit].searches;
  {
    const std::lock_guard lock(mutex_);
    const auto begin = guesses_.listed.begin() + static_cast<std::ptrdiff_t>(guesses_.first[unit]);
    scratch.listed.assign(begin, begin + static_cast<std::ptrdiff_t>(searches.size()));
    guesses_.n_counted[unit] += tile.n;
  }
  scratch.tried.assign(searches.size(), {});
  const bool is_listed = guesses_.tasks[first_ + tile.job].is_listed;
  for (std::size_t s = 0; s < searches.size(); ++s) {
    if (searches[s].done) continue;
    const bool lists = is_listed && has_room(scratch.listed[s]);
    Bracket bracket = searches[s].tried;
    if (lists) bracket.low = std::min(bracket.low, scratch.listed[s].low);
    scratch.wanted.push_back({s, bracket, false, lists});
  }
  ranked_.count(scratch.wanted, tile, scratch.numbers, [&](std::size_t s, TileCount& count) {
    const Bracket& range = scratch.listed[s];
    if (is_listed && has_room(range)) {
      for (std::size_t i = 0; i < count.tally.n_interior; ++i) {
        const auto bits = static_cast<std::int32_t>(count.interior[i]);
        if (bits > range.low && bits < range.high) scratch.open.push_back(count.positions[i]);
      }
      if (range.low < searches[s].tried.low) begin_at(searches[s].tried.low, count);
    }
    scratch.tried[s] =
        counts_.change(guesses_.index_of(unit, s), [&](Counted& sum) { return sum.add(count); });
  });
  std::ranges::sort(scratch.open);
  const auto same = std::ranges::unique(scratch.open);
  scratch.open.erase(same.begin(), same.end());
}

Listed Verifier::list(const Tile& tile, const GuessedTask& task, Scratch& scratch) const {
  Listed found{scratch.open, {}};
  const std::size_t n = found.at.size(), n_bytes = size_of(task.type);
  if (n == 0) return found;
  const std::vector<Source>& sources = plan_.sources[task.task.slice.job];
  found.values.resize(sources.size() * n * n_bytes);
  std::size_t i = 0;
  scratch.numbers.reader.for_each_rows(
      tile, sources, task.is_direct ? As::as_stored : As::float32,
      [&](const Rows& rows, std::size_t first, std::size_t n_rows) {
        for (; i < n && found.at[i] < first + n_rows; ++i)
          for (std::size_t source = 0; source < sources.size(); ++source)
            std::memcpy(
                found.values.data() + (source * n + i) * n_bytes,
                static_cast<const char*>(rows.values[source]) + (found.at[i] - first) * n_bytes,
                n_bytes);
      });
  return found;
}

void Verifier::remember(const Tile& tile, const CombineResult& part, Scratch& scratch) {
  const bool may_change = guesses_.locate || std::ranges::any_of(scratch.listed, has_room);
  if (scratch.wanted.empty() || !may_change) return;
  GuessedTask& task = guesses_.tasks[first_ + tile.job];
  GuessedTile found{tile.first, tile.n, {}, list(tile, task, scratch), {}};
  for (std::size_t k = 0; k < part.candidates.size(); ++k) {
    const CandidateResult& result = part.candidates[k];
    const Candidate& candidate = task.task.candidates[k];
    const bool plus = !result.plus.ranges.empty(), minus = !result.minus.ranges.empty();
    const int any_sign = candidate.majority >= 0 ? 1 : candidate.zero_sign;
    found.candidates.push_back({result.tally,
                                plus    ? result.plus.output
                                : minus ? result.minus.output
                                        : result.output,
                                candidate.majority < 0 ? candidate.zero_sign
                                : plus                 ? 1
                                : minus                ? -1
                                                       : any_sign});
  }
  const std::lock_guard lock(mutex_);
  const std::size_t n_tried = scratch.tried.size() * sizeof(AtBracket);
  if (guesses_.locate && guesses_.bytes_tried + n_tried <= guesses_.list_bytes / 4) {
    found.tried = scratch.tried;
    guesses_.bytes_tried += n_tried;
  }
  guesses_.n_listed += found.listed.at.size();
  guesses_.bytes_in_lists += found.listed.n_bytes();
  task.tiles.push_back(std::move(found));
  if (guesses_.bytes_in_lists > room()) shorten_lists(plan_, guesses_, room());
}

std::uint64_t Verifier::room() const {
  const std::uint64_t all = guesses_.list_bytes - guesses_.bytes_tried;
  return all - (cancelled_ ? std::min(cancelled_->n_bytes(), all / 2) : 0);
}

}  // namespace tallies
