#include "engine/weighted.h"

#include "cpu/ops.h"
#include "engine/reader.h"
#include "stream/pages.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Elements that a thread takes at a time: a multiple of the chunk, long enough to pay for the call.
constexpr std::size_t kCell = 32 * kChunk;

std::size_t n_cells(std::uint64_t n_elements) {
  return static_cast<std::size_t>((n_elements + kCell - 1) / kCell);
}

// The deltas of a tensor as the sources of one job, with the reader of a thread.
class Deltas {
 public:
  explicit Deltas(const std::vector<const Operand*>& deltas) {
    for (const Operand* delta : deltas) {
      sources_.push_back(delta->source);
      sources_.back().array = static_cast<std::uint16_t>(arrays_.size());
      arrays_.insert(arrays_.end(), delta->arrays.begin(), delta->arrays.end());
    }
    in_.resize(arrays_.size());
  }

  // Calls body(begin, rows) for kRowsTogether deltas from `begin` on, until all had their turn,
  // over the n elements of a chunk.
  template <class Body>
  void for_each_group(std::uint64_t first, std::size_t n, const Body& body) {
    for (std::size_t i = 0; i < arrays_.size(); ++i) in_[i] = address(arrays_[i], first, n);
    const Tile tile{0, first, n, in_.data(), nullptr, 0, 0};
    for (std::size_t begin = 0; begin < sources_.size(); begin += kRowsTogether) {
      const std::size_t n_rows = std::min<std::size_t>(kRowsTogether, sources_.size() - begin);
      reader_.for_each_rows(tile, std::span(sources_).subspan(begin, n_rows), As::float32,
                            [&](const Rows& rows, std::size_t, std::size_t) { body(begin, rows); });
    }
  }

 private:
  std::vector<Array> arrays_;
  std::vector<Source> sources_;
  std::vector<const void*> in_;
  Reader reader_;
};

// The same rows from an element of the chunk on.
struct RowsFrom {
  const float* rows[kRowsTogether];
  int n;
  RowsFrom(const Rows& all, std::size_t at) : n(static_cast<int>(all.values.size())) {
    for (int i = 0; i < n; ++i)
      rows[i] = static_cast<const float*>(all.values[static_cast<std::size_t>(i)]) + at;
  }
};

// Calls body(cell, first, n, deltas) for the chunks of each cell in order, cells from several
// threads.
template <class Body>
void for_each_chunk(const std::vector<const Operand*>& deltas, std::uint64_t n_elements,
                    int n_threads, const Body& body) {
  parallel_for(n_cells(n_elements), n_threads, [&](std::size_t cell) {
    Deltas of_cell(deltas);
    const std::uint64_t begin = cell * kCell, end = std::min(begin + kCell, n_elements);
    for (std::uint64_t first = begin; first < end; first += kChunk)
      body(cell, first, static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, end - first)),
           of_cell);
  });
}

// The block that an element belongs to.
std::uint64_t block_of(const Weighted& sum, std::uint64_t element) {
  return ((element + 1) * sum.n_blocks - 1) / sum.n_elements;
}

// Calls body(block, at, n) for the part of each block in the n elements from `first` on; `at`
// counts from there.
template <class Body>
void for_each_block(const Weighted& sum, std::uint64_t first, std::size_t n_elements,
                    const Body& body) {
  std::uint64_t block = block_of(sum, first);
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

}  // namespace

void weighted_sum(const Weighted& sum, const void* base, DType type, const float* factors,
                  void* out) {
  const int code = static_cast<int>(type);
  prefer_huge_pages(out, sum.n_elements * size_of(type));
  for_each_chunk(
      sum.deltas, sum.n_elements, sum.n_threads,
      [&](std::size_t, std::uint64_t first, std::size_t n, Deltas& deltas) {
        float total[kChunk];
        kernels().widen[code](element(base, type, first), total, n);
        deltas.for_each_group(first, n, [&](std::size_t begin, const Rows& group) {
          for_each_block(
              sum, first, n, [&](std::uint64_t block, std::size_t at, std::size_t n_here) {
                const RowsFrom here(group, at);
                float of_rows[kRowsTogether];
                for (int row = 0; row < here.n; ++row)
                  of_rows[row] =
                      factors[(begin + static_cast<std::size_t>(row)) * sum.n_blocks + block];
                kernels().add_scaled(total + at, here.rows, of_rows, here.n, n_here);
              });
        });
        kernels().narrow[code](total, const_cast<char*>(element(out, type, first)), n);
      });
}

void block_dots(const Weighted& sum, const void* grad, DType type, double* out) {
  const std::size_t n_deltas = sum.deltas.size();
  // For each cell, the sums over its part of each block that the cell touches, delta by delta.
  std::vector<std::vector<double>> parts(n_cells(sum.n_elements));
  const auto first_block = [&](std::size_t cell) { return block_of(sum, cell * kCell); };
  for (std::size_t cell = 0; cell < parts.size(); ++cell) {
    const std::uint64_t end = std::min<std::uint64_t>((cell + 1) * kCell, sum.n_elements);
    parts[cell].resize((block_of(sum, end - 1) - first_block(cell) + 1) * n_deltas);
  }
  for_each_chunk(sum.deltas, sum.n_elements, sum.n_threads,
                 [&](std::size_t cell, std::uint64_t first, std::size_t n, Deltas& deltas) {
                   float wide[kChunk];
                   const float* g = reinterpret_cast<const float*>(element(grad, type, first));
                   if (type != DType::f32) {
                     kernels().widen[static_cast<int>(type)](g, wide, n);
                     g = wide;
                   }
                   double* const sums = parts[cell].data();
                   const std::uint64_t block0 = first_block(cell);
                   deltas.for_each_group(first, n, [&](std::size_t begin, const Rows& group) {
                     for_each_block(sum, first, n,
                                    [&](std::uint64_t block, std::size_t at, std::size_t n_here) {
                                      const RowsFrom rows(group, at);
                                      double lanes[kRowsTogether][8];
                                      kernels().dots(g + at, rows.rows, rows.n, n_here, lanes);
                                      double* const here =
                                          sums + (block - block0) * n_deltas + begin;
                                      for (int row = 0; row < rows.n; ++row)
                                        here[row] += sum_of_lanes(lanes[row]);
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

void decode_all(const Operand& delta, std::uint64_t n_elements, int n_threads, float* out) {
  for_each_chunk({&delta}, n_elements, n_threads,
                 [&](std::size_t, std::uint64_t first, std::size_t n, Deltas& deltas) {
                   deltas.for_each_group(first, n, [&](std::size_t, const Rows& rows) {
                     kernels().narrow[0](RowsFrom(rows, 0).rows[0], out + first, n);
                   });
                 });
}

}  // namespace tallies
