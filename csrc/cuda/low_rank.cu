// Adds a product of two small factors to a matrix: tiles of the matrix, whose rows and columns of
// the factors lie in shared memory.
#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"
#include "kernels/low_rank.h"
#include "kernels/types.h"

namespace tallies::cuda {
namespace {

// A thread has kEach x kEach elements of a tile, side by side in each row.
constexpr unsigned kTile = 64, kEach = 4, kRanks = 16;
constexpr unsigned kAcross = kTile / kEach;
static_assert(kThreads == kAcross * kAcross);

struct LowRankParams {
  const void* base;
  const float *left, *right;
  std::size_t n_rows, rank, n_columns, tiles_across, n_tiles;
  float scale;
  void* out;
};

template <class T>
__global__ void __launch_bounds__(kThreads) low_rank(const LowRankParams args) {
  using Word = typename T::Word;
  __shared__ float left[kTile][kRanks + 1], right[kRanks][kTile];
  const unsigned thread = threadIdx.x;
  const unsigned own_row = thread / kAcross * kEach, own_column = thread % kAcross * kEach;
  for (std::size_t tile = blockIdx.x; tile < args.n_tiles; tile += gridDim.x) {
    const std::size_t row = tile / args.tiles_across * kTile;
    const std::size_t column = tile % args.tiles_across * kTile;
    float sum[kEach][kEach];
    for (std::size_t first = 0; first < args.rank; first += kRanks) {
      const unsigned n_ranks =
          args.rank - first < kRanks ? static_cast<unsigned>(args.rank - first) : kRanks;
      for (unsigned i = thread; i < kTile * kRanks; i += kThreads) {
        const unsigned r = i / kRanks, k = i % kRanks;
        if (row + r < args.n_rows && k < n_ranks)
          left[r][k] = args.left[(row + r) * args.rank + first + k];
        const unsigned k2 = i / kTile, c = i % kTile;
        if (column + c < args.n_columns && k2 < n_ranks)
          right[k2][c] = args.right[(first + k2) * args.n_columns + column + c];
      }
      __syncthreads();
      for (unsigned k = 0; k < n_ranks; ++k)
        for (unsigned i = 0; i < kEach; ++i)
          for (unsigned j = 0; j < kEach; ++j) {
            const float l = left[own_row + i][k], r = right[k][own_column + j];
            sum[i][j] = first + k == 0 ? l * r : LowRank::step(sum[i][j], l, r);
          }
      __syncthreads();
    }
    if (column + own_column >= args.n_columns) continue;
    const std::size_t n_left = args.n_columns - column - own_column;
    const int n = n_left < kEach ? static_cast<int>(n_left) : int(kEach);
    for (unsigned i = 0; i < kEach && row + own_row + i < args.n_rows; ++i) {
      const std::size_t at = (row + own_row + i) * args.n_columns + column + own_column;
      float x[kEach];
      load_floats<T>(x, args.base, at, n);
      Chunk<Word, kEach> words;
      for (unsigned j = 0; j < kEach; ++j)
        T::store_in_order(words.v + j, canonical(LowRank::finish(x[j], args.scale, sum[i][j])));
      store_chunk(static_cast<Word*>(args.out) + at, words, n);
    }
  }
}

template <class T>
Failure run_low_rank(const void* base, const float* left, const float* right, std::size_t n_rows,
                     std::size_t rank, std::size_t n_columns, float scale, void* out,
                     Stream stream) {
  const auto tiles = [](std::size_t n) { return (n + kTile - 1) / kTile; };
  const LowRankParams args{base,
                           left,
                           right,
                           n_rows,
                           rank,
                           n_columns,
                           tiles(n_columns),
                           tiles(n_rows) * tiles(n_columns),
                           scale,
                           out};
  unsigned n_blocks = 0;
  if (args.n_tiles == 0) return nullptr;
  if (const Failure wrong = grid_for(args.n_tiles, 1, &n_blocks)) return wrong;
  return launch(&low_rank<T>, n_blocks, stream, args);
}

}  // namespace

void fill_low_rank(Table& table) {
  for_each_fused_type([&]<class T>() { table.low_rank[kIndex<T>] = &run_low_rank<T>; });
}

}  // namespace tallies::cuda
