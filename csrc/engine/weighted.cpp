#include "engine/weighted.h"

#include "stream/pages.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// What a thread takes at a time: a multiple of the chunk, long enough to pay for the asking.
constexpr std::size_t kCell = 32 * kChunk;

std::size_t n_cells(std::uint64_t n_elements) {
  return static_cast<std::size_t>((n_elements + kCell - 1) / kCell);
}

// Calls body(cell, first, n) for the chunks of each cell in order, cells from several threads.
template <class Body>
void for_each_chunk(std::uint64_t n_elements, int n_threads, const Body& body) {
  parallel_for(n_cells(n_elements), n_threads, [&](std::size_t cell) {
    const std::uint64_t begin = cell * kCell, end = std::min(begin + kCell, n_elements);
    for (std::uint64_t first = begin; first < end; first += kChunk)
      body(cell, first, static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, end - first)));
  });
}

// The block that an element belongs to.
std::uint64_t block_of(const Weighted& sum, std::uint64_t element) {
  return ((element + 1) * sum.n_blocks - 1) / sum.n_elements;
}

// Calls body(block, at, n) for what each block has of the n elements from `first` on; `at` counts
// from there.
template <class Body>
void for_each_block(const Weighted& sum, std::uint64_t first, std::size_t n_elements,
                    const Body& body) {
  std::uint64_t block = ((first + 1) * sum.n_blocks - 1) / sum.n_elements;
  for (std::size_t at = 0; at < n_elements; ++block) {
    const std::uint64_t end = (block + 1) * sum.n_elements / sum.n_blocks;
    const auto n =
        static_cast<std::size_t>(std::min<std::uint64_t>(end, first + n_elements) - first - at);
    if (n > 0) body(block, at, n);
    at += n;
  }
}

const char* element(const void* data, DType type, std::uint64_t i) {
  return static_cast<const char*>(data) + i * size_of(type);
}

double folded(const double lanes[8]) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// Deltas from `begin` on that are taken together, decoded.
struct Group {
  std::size_t begin;
  int n;
  const float* rows[kRowsTogether];

  // The same from an element of the chunk on.
  Group from(std::size_t at) const {
    Group later = *this;
    for (int row = 0; row < n; ++row) later.rows[row] += at;
    return later;
  }
};

// Calls body(group) until all deltas had their turn, for a chunk of them.
template <class Body>
void for_each_group(const Weighted& sum, std::uint64_t first, std::size_t n_elements,
                    const Body& body) {
  DecodeScratch scratch[kRowsTogether];
  Group group{};
  for (group.begin = 0; group.begin < sum.deltas.size(); group.begin += kRowsTogether) {
    group.n =
        static_cast<int>(std::min<std::size_t>(kRowsTogether, sum.deltas.size() - group.begin));
    for (int row = 0; row < group.n; ++row)
      group.rows[row] = decode(*sum.deltas[group.begin + static_cast<std::size_t>(row)], first,
                               n_elements, scratch[row]);
    body(group);
  }
}

}  // namespace

void weighted_sum(const Weighted& sum, const void* base, DType type, const float* factors,
                  void* out) {
  const int code = static_cast<int>(type);
  prefer_huge_pages(out, sum.n_elements * size_of(type));
  for_each_chunk(
      sum.n_elements, sum.n_threads, [&](std::size_t, std::uint64_t first, std::size_t n) {
        float total[kChunk];
        kernels().widen[code](element(base, type, first), total, n);
        for_each_group(sum, first, n, [&](const Group& group) {
          for_each_block(
              sum, first, n, [&](std::uint64_t block, std::size_t at, std::size_t n_here) {
                float of_rows[kRowsTogether];
                for (int row = 0; row < group.n; ++row)
                  of_rows[row] =
                      factors[(group.begin + static_cast<std::size_t>(row)) * sum.n_blocks + block];
                kernels().add_scaled(total + at, group.from(at).rows, of_rows, group.n, n_here);
              });
        });
        kernels().narrow[code](total, const_cast<char*>(element(out, type, first)), n);
      });
}

void block_dots(const Weighted& sum, const void* grad, DType type, double* out) {
  const std::size_t n_deltas = sum.deltas.size();
  // Of each cell, the sums over its part of each block that it touches, delta by delta.
  std::vector<std::vector<double>> parts(n_cells(sum.n_elements));
  const auto first_block = [&](std::size_t cell) { return block_of(sum, cell * kCell); };
  for (std::size_t cell = 0; cell < parts.size(); ++cell) {
    const std::uint64_t end = std::min<std::uint64_t>((cell + 1) * kCell, sum.n_elements);
    parts[cell].resize((block_of(sum, end - 1) - first_block(cell) + 1) * n_deltas);
  }
  for_each_chunk(
      sum.n_elements, sum.n_threads, [&](std::size_t cell, std::uint64_t first, std::size_t n) {
        float wide[kChunk];
        const float* g = reinterpret_cast<const float*>(element(grad, type, first));
        if (type != DType::f32) {
          kernels().widen[static_cast<int>(type)](g, wide, n);
          g = wide;
        }
        double* const sums = parts[cell].data();
        const std::uint64_t block0 = first_block(cell);
        for_each_group(sum, first, n, [&](const Group& group) {
          for_each_block(sum, first, n,
                         [&](std::uint64_t block, std::size_t at, std::size_t n_here) {
                           double lanes[kRowsTogether][8];
                           kernels().dots(g + at, group.from(at).rows, group.n, n_here, lanes);
                           double* const here = sums + (block - block0) * n_deltas + group.begin;
                           for (int row = 0; row < group.n; ++row) here[row] += folded(lanes[row]);
                         });
        });
      });
  std::fill_n(out, n_deltas * sum.n_blocks, 0.0);
  for (std::size_t cell = 0; cell < parts.size(); ++cell)
    for (std::size_t i = 0; i < parts[cell].size(); ++i)
      out[i % n_deltas * sum.n_blocks + first_block(cell) + i / n_deltas] += parts[cell][i];
  for (std::size_t i = 0; i < n_deltas * sum.n_blocks; ++i)
    if (out[i] != out[i]) out[i] = __builtin_nan("");  // its sign depends on the instructions
}

void decode_all(const Delta& delta, int n_threads, float* out) {
  for_each_chunk(delta.n_elements, n_threads, [&](std::size_t, std::uint64_t first, std::size_t n) {
    DecodeScratch scratch;
    kernels().narrow[0](decode(delta, first, n, scratch), out + first, n);
  });
}

}  // namespace tallies
