#include "engine/differences.h"

#include <cmath>
#include <cstring>

#include "engine/pass.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
  float a[kChunk], b[kChunk], delta[kChunk];
  std::uint8_t mask[kChunk / 8];
};

// Adds the sums of the products of all pairs of values: a * a, a * b, b * b.
void add_products(const float* a, const float* b, std::size_t n, Differences& part) {
  const float* const rows[] = {a, b};
  double lanes[2][8];
  kernels().dots(a, rows, 2, n, lanes);
  for (std::size_t i = 0; i < 2; ++i) part.sums[i] += std::accumulate(lanes[i], lanes[i] + 8, 0.0);
  part.sums[2] += eight_lanes([&](double sums[8]) { kernels().dot(b, b, n, sums); });
}

// Adds the sums of a chunk that is equal on both sides; returns false, without a change, if a value
// is not finite.
bool add_equal(const float* values, std::size_t n, Differences& part) {
  const double squares =
      eight_lanes([&](double sums[8]) { kernels().dot(values, values, n, sums); });
  if (!std::isfinite(squares)) return false;
  for (std::size_t i = 0; i < 3; ++i) part.sums[i] += squares;
  return true;
}

// Compares the values of a chunk. Those that are not finite count as zeros.
void add_floats(const float* a, const float* b, std::size_t n, Scratch& scratch,
                Differences& part) {
  Contrast found;
  float* const delta = scratch.delta;
  kernels().contrast(a, b, delta, n, found);
  part.n_nonfinite += found.n_nonfinite;
  part.n_flips += found.n_flips;
  part.largest = std::max<double>(part.largest, std::bit_cast<float>(found.largest));
  if (found.n_nonfinite > 0) {
    for (std::size_t i = 0; i < n; ++i) {
      const bool is_finite = std::isfinite(a[i]) && std::isfinite(b[i]);
      scratch.a[i] = is_finite ? a[i] : 0.0f;
      scratch.b[i] = is_finite ? b[i] : 0.0f;
    }
    a = scratch.a;
    b = scratch.b;
  }
  add_products(a, b, n, part);
  part.sums[3] += eight_lanes([&](double lanes[8]) { kernels().dot(delta, delta, n, lanes); });
}

template <class Number>
double number_at(const void* numbers, std::size_t i) {
  Number number;  // which may lie at any address
  std::memcpy(&number, static_cast<const char*>(numbers) + i * sizeof number, sizeof number);
  return static_cast<double>(number);
}

// Compares the whole numbers of a chunk, of which each becomes the nearest float64.
template <class Number>
void add_integers(const void* a, const void* b, std::size_t n, Differences& part) {
  double lanes[4][8] = {};
  for (std::size_t i = 0; i < n; ++i) {
    const double x = number_at<Number>(a, i), y = number_at<Number>(b, i), delta = y - x;
    part.n_flips += x * y < 0;
    part.largest = std::max(part.largest, std::abs(delta));
    lanes[0][i % 8] += x * x;
    lanes[1][i % 8] += x * y;
    lanes[2][i % 8] += y * y;
    lanes[3][i % 8] += delta * delta;
  }
  for (std::size_t k = 0; k < 4; ++k) part.sums[k] += std::accumulate(lanes[k], lanes[k] + 8, 0.0);
}

using AddIntegers = void (*)(const void*, const void*, std::size_t, Differences&);
constexpr AddIntegers kAddIntegers[2][4] = {
    {add_integers<std::int8_t>, add_integers<std::int16_t>, add_integers<std::int32_t>,
     add_integers<std::int64_t>},
    {add_integers<std::uint8_t>, add_integers<std::uint16_t>, add_integers<std::uint32_t>,
     add_integers<std::uint64_t>}};

// Returns how many of the n elements of two arrays differ in a bit, at most kChunk.
std::uint64_t count_different(const void* a, const void* b, std::size_t n_bytes, std::size_t n,
                              Scratch& scratch) {
  kernels().differ[by_size(n_bytes)](a, b, scratch.mask, n);
  return count_set(scratch.mask, n);
}

bool is_plain(const Source& source) {
  return source.form == Source::Form::plain && !source.changes;
}

const char* stored_at(const Tile& tile, const Source& source, std::size_t element) {
  return static_cast<const char*>(tile.in[source.array]) + element * size_of(source.type);
}

}  // namespace

Differences& Differences::operator+=(const Differences& part) {
  n_different += part.n_different;
  n_nonfinite += part.n_nonfinite;
  n_flips += part.n_flips;
  largest = std::max(largest, part.largest);
  add(sums, part.sums);
  return *this;
}

std::vector<Differences> compare(const Plan& plan, const std::vector<CompareTask>& tasks,
                                 const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs;
  for (const CompareTask& task : tasks) jobs.push_back(survey_of(plan, task.slice, kChunk));
  return run<Scratch>(
      plan.files, jobs, limits, progress, std::vector<Differences>(tasks.size()),
      [&](const Tile& tile, Scratch& scratch, Differences& part) {
        const CompareTask& task = tasks[tile.job];
        const std::vector<Source>& sources = plan.sources[task.slice.job];
        const Source &a = sources[0], &b = sources[1];
        if (task.elements != Elements::floats) {
          const std::size_t n_bytes = size_of(a.type);
          const AddIntegers add =
              kAddIntegers[task.elements == Elements::unsigned_integers][by_size(n_bytes)];
          for (std::size_t first = 0, n; first < tile.n; first += n) {
            n = std::min(kChunk, tile.n - first);
            const char *const x = stored_at(tile, a, first), *const y = stored_at(tile, b, first);
            part.n_different += count_different(x, y, n_bytes, n, scratch);
            add(x, y, n, part);
          }
          return;
        }
        const bool as_stored = is_plain(a) && is_plain(b) && a.type == b.type;
        scratch.reader.for_each_rows(
            tile, sources, As::float32, [&](const Rows& rows, std::size_t first, std::size_t n) {
              const auto* const x = static_cast<const float*>(rows.values[0]);
              const auto* const y = static_cast<const float*>(rows.values[1]);
              const std::uint64_t n_different =
                  as_stored ? count_different(stored_at(tile, a, first), stored_at(tile, b, first),
                                              size_of(a.type), n, scratch)
                            : count_different(x, y, sizeof(float), n, scratch);
              part.n_different += n_different;
              if (n_different > 0 || !add_equal(x, n, part)) add_floats(x, y, n, scratch, part);
            });
      });
}

}  // namespace tallies
