#include "engine/rounds.h"

#include <algorithm>

namespace tallies {
namespace {

// Patterns that every search may list; together they may take as much memory as the buffers.
constexpr std::size_t kLeastListed = 1 << 14;

}  // namespace

Rounds::Rounds(const RankedUnits& ranked, const Selection& selection, const Limits& limits,
               const Progress& progress)
    : ranked_(ranked), selection_(selection), limits_(limits), progress_(progress), first_{0} {
  for (const Selection::Group& group : selection.groups)
    first_.push_back(first_.back() + group.searches.size());
}

std::vector<Counted> Rounds::start() const {
  std::size_t n_open = 0;
  for (const Selection::Group& group : selection_.groups)
    if (group.n_elements > kSmallUnit)
      n_open += static_cast<std::size_t>(
          std::ranges::count_if(group.searches, [](const Search& one) { return one.rank > 0; }));
  const std::size_t n_bytes = limits_.buffer_bytes * static_cast<std::size_t>(limits_.n_threads);
  const std::size_t most_listed =
      std::max(n_bytes / sizeof(std::uint32_t) / std::max<std::size_t>(n_open, 1), kLeastListed);
  std::vector<Counted> empty;
  for (const Selection::Group& group : selection_.groups)
    for (const Search& search : group.searches) empty.push_back(search.start(most_listed));
  return empty;
}

bool Rounds::count(const Tiling& tiling, std::vector<Counted>& counts, const Note& note) const {
  Parts<Counted> parts(start());
  const bool finished = count_in(
      tiling,
      [](const Search& search) -> std::optional<Bracket> {
        if (search.done) return {};
        return search.tried;
      },
      [&](std::size_t s, const Tile& tile, const TileCount& found) {
        note(s, tile, parts.change(index_of(ranked_.unit_of(tile.job), s), [&](Counted& part) {
          return part.add(found);
        }));
      });
  counts = parts.take();
  return finished;
}

}  // namespace tallies
