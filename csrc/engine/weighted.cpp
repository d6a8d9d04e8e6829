#include "engine/weighted.h"

namespace tallies {
namespace {

// What a thread takes at a time: a multiple of the chunk, long enough to pay for the asking.
constexpr std::size_t kCell = 32 * kChunk;

// Calls body(first, n) for the chunks of each cell, cells from several threads.
template <class MakeBody>
void for_each_chunk(std::uint64_t n_elements, int n_threads, const MakeBody& make_body) {
  const auto n_cells = static_cast<std::size_t>((n_elements + kCell - 1) / kCell);
  parallel_for(n_cells, n_threads, [&](std::size_t cell) {
    const std::uint64_t begin = cell * kCell, end = std::min(begin + kCell, n_elements);
    const auto body = make_body(cell);
    for (std::uint64_t first = begin; first < end; first += kChunk)
      body(first, static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, end - first)));
  });
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

}  // namespace

void weighted_sum(const Weighted& sum, const void* base, DType type, const float* factors,
                  void* out) {
  const int code = static_cast<int>(type);
  for_each_chunk(sum.n_elements, sum.n_threads, [&](std::size_t) {
    return [&](std::uint64_t first, std::size_t n) {
      DecodeScratch scratch;
      float total[kChunk];
      kernels().widen[code](element(base, type, first), total, n);
      for (std::size_t t = 0; t < sum.deltas.size(); ++t) {
        const float* const x = decode(*sum.deltas[t], first, n, scratch);
        for_each_block(sum, first, n, [&](std::uint64_t block, std::size_t at, std::size_t n_here) {
          kernels().add_scaled(total + at, x + at, factors[t * sum.n_blocks + block], n_here);
        });
      }
      kernels().narrow[code](total, const_cast<char*>(element(out, type, first)), n);
    };
  });
}

void block_dots(const Weighted& sum, const void* grad, DType type, double* out) {
  const std::size_t n_deltas = sum.deltas.size();
  // Of each cell, the sums of what its chunks share with blocks, delta by delta.
  std::vector<std::vector<double>> parts(
      static_cast<std::size_t>((sum.n_elements + kCell - 1) / kCell));
  for_each_chunk(sum.n_elements, sum.n_threads, [&](std::size_t cell) {
    return [&, cell](std::uint64_t first, std::size_t n) {
      DecodeScratch scratch;
      float wide[kChunk];
      const float* g = reinterpret_cast<const float*>(element(grad, type, first));
      if (type != DType::f32) {
        kernels().widen[static_cast<int>(type)](g, wide, n);
        g = wide;
      }
      for (const Delta* delta : sum.deltas) {
        const float* const x = decode(*delta, first, n, scratch);
        for_each_block(sum, first, n, [&](std::uint64_t, std::size_t at, std::size_t n_here) {
          double lanes[8] = {};
          kernels().dot(g + at, x + at, n_here, lanes);
          parts[cell].push_back(folded(lanes));
        });
      }
    };
  });
  std::fill_n(out, n_deltas * sum.n_blocks, 0.0);
  for (std::size_t cell = 0; cell < parts.size(); ++cell) {
    const double* part = parts[cell].data();
    const std::uint64_t begin = cell * kCell, end = std::min(begin + kCell, sum.n_elements);
    for (std::uint64_t first = begin; first < end; first += kChunk) {
      const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, end - first));
      for (std::size_t t = 0; t < n_deltas; ++t)
        for_each_block(sum, first, n, [&](std::uint64_t block, std::size_t, std::size_t) {
          out[t * sum.n_blocks + block] += *part++;
        });
    }
  }
}

void decode_all(const Delta& delta, int n_threads, float* out) {
  for_each_chunk(delta.n_elements, n_threads, [&](std::size_t) {
    return [&](std::uint64_t first, std::size_t n) {
      DecodeScratch scratch;
      std::copy_n(decode(delta, first, n, scratch), n, out + first);
    };
  });
}

}  // namespace tallies
