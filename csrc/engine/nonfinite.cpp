#include "engine/nonfinite.h"

#include <algorithm>

#include "engine/pass.h"
#include "engine/views.h"

namespace tallies {

NonFinite& NonFinite::operator+=(const NonFinite& part) {
  if (part.count == 0) return *this;
  first = count == 0 ? part.first : std::min(first, part.first);
  count += part.count;
  return *this;
}

NonFinite find_nonfinite(const Plan& plan, std::size_t job, std::size_t input, const Limits& limits,
                         const Progress& progress) {
  Job one = survey_of(plan, {job, 0, plan.jobs[job].n_elements});
  const std::vector<Source> source = only(one, std::span(plan.sources[job]).subspan(input, 1));
  return run<Reader>(plan.files, {one}, limits, progress, std::vector<NonFinite>(1),
                     [&](const Tile& tile, Reader& reader, NonFinite& part) {
                       reader.for_each_rows(tile, source, As::float32,
                                            [&](const Rows& rows, std::size_t at, std::size_t n) {
                                              const auto* const values =
                                                  static_cast<const float*>(rows.values[0]);
                                              for (std::size_t i = 0; i < n; ++i)
                                                if (values[i] - values[i] != 0)
                                                  part += {1, tile.first + at + i};
                                            });
                     })[0];
}

}  // namespace tallies
