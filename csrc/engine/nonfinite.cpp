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
  one.inputs = {plan.jobs[job].inputs[input]};
  const std::vector<DType> type = {plan.input_types[job][input]};
  return run<Widened>(plan.files, {one}, limits, progress, std::vector<NonFinite>(1),
                      [&](const Tile& tile, Widened& widened, NonFinite& part) {
                        widened.for_each_chunk(
                            tile, type,
                            [&](const void* const* rows, std::size_t at, std::size_t n) {
                              const float* const values = static_cast<const float*>(rows[0]);
                              for (std::size_t i = 0; i < n; ++i)
                                if (values[i] - values[i] != 0) part += {1, tile.first + at + i};
                            });
                      })[0];
}

}  // namespace tallies
