#include "engine/decode.h"

#include "cpu/ops.h"
#include "engine/set_bits.h"

namespace tallies {
namespace {

void widen(DType type, const void* values, float* out, std::size_t n) {
  kernels().widen[static_cast<int>(type)](values, out, n);
}

// A packed mask from any element on, moved to where a byte begins.
class Mask {
 public:
  Mask(const Piece& s, std::size_t array)
      : bits_(static_cast<const std::uint8_t*>(s.array(array)) + s.at / 8) {
    const std::size_t shift = s.at % 8, last = (shift + s.n - 1) / 8;
    if (shift == 0) return;
    for (std::size_t i = 0; i < (s.n + 7) / 8; ++i) {
      const int next = i < last ? bits_[i + 1] : 0;
      moved_[i] = static_cast<std::uint8_t>((bits_[i] | next << 8) >> shift);
    }
    bits_ = moved_;
  }
  operator const std::uint8_t*() const { return bits_; }

 private:
  const std::uint8_t* bits_;
  std::uint8_t moved_[kChunk / 8];
};

void plain(const Piece& s, float* out) { widen(s.source.type, s.values(s.at), out, s.n); }

// One product for each element; the elements of one row and block are multiplied together.
void scaled(const Piece& s, float* out) {
  const Source& source = s.source;
  plain(s, out);
  const std::uint64_t record = s.tile.first / source.per();  // with which the tile's scales begin
  for (std::size_t i = 0; i < s.n;) {
    const std::uint64_t element = s.first() + i;
    const std::uint64_t row = element / source.row_length, column = element % source.row_length;
    const std::uint64_t block = column / source.block_columns;
    const std::uint64_t end = source.block_columns > source.row_length / (block + 1)
                                  ? source.row_length
                                  : (block + 1) * source.block_columns;
    const std::uint64_t index = (row / source.block_rows - record) * source.blocks_across() + block;
    float scale;
    widen(source.scale_type,
          static_cast<const char*>(s.array(1)) + index * size_of(source.scale_type), &scale, 1);
    const auto to = static_cast<std::size_t>(std::min<std::uint64_t>(s.n, i + (end - column)));
    for (; i < to; ++i) out[i] *= scale;
  }
}

void zero(const Piece& s, float* out) { std::fill_n(out, s.n, 0.0f); }

void masked(const Piece& s, float* out) {
  float wide[kChunk];
  const void* values = s.values(s.at);
  DType type = s.source.type;
  if (!is_fused(type)) {
    widen(type, values, wide, s.n);
    values = wide;
    type = DType::f32;
  }
  kernels().decode_masked[static_cast<int>(type)](values, Mask(s, 1), s.source.scale, out, s.n);
}

void signs(const Piece& s, float* out) {
  kernels().decode_signs(Mask(s, 0), s.source.scale, out, s.n);
}

void sparse(const Piece& s, float* out) {
  float wide[kChunk];
  const Mask mask(s, 1);
  const auto n_set = static_cast<std::size_t>(count_set(mask, s.n));
  widen(s.source.type, s.values(s.next), wide, n_set);
  std::fill_n(out, s.n, 0.0f);
  scatter<float>(wide, mask, s.n, out);
  s.next += n_set;
}

void quantized(const Piece& s, float* out) {
  const auto* const q = static_cast<const std::int8_t*>(s.array(0));
  const auto* const scales = static_cast<const float*>(s.array(2));
  RowOf row(s.source.row_length);
  const std::uint64_t first_row = s.tile.first / s.source.row_length;
  std::fill_n(out, s.n, 0.0f);
  for_each_set(Mask(s, 1), s.n, [&](std::size_t i) {
    out[i] = static_cast<float>(q[s.next++]) * scales[row(s.first() + i) - first_row];
  });
}

// By form.
constexpr void (*kDecode[])(const Piece&, float*) = {plain, scaled, zero,     masked,
                                                     signs, sparse, quantized};

bool is_sparse(Source::Form form) {
  return form == Source::Form::sparse || form == Source::Form::quantized;
}

}  // namespace

void decode(Piece all, float* out) {
  const std::size_t end = all.at + all.n;
  for (Piece s = all; s.at < end; s.at += s.n) {
    s.n = std::min(kChunk, end - s.at);
    kDecode[static_cast<int>(s.source.form)](s, out + (s.at - all.at));
  }
  if (all.source.changes) make_changes(all, out);
}

std::size_t values_before(const Source& source, const Tile& tile, std::size_t at) {
  if (!is_sparse(source.form)) return 0;
  const auto* const mask = static_cast<const std::uint8_t*>(tile.in[source.array + 1]);
  return static_cast<std::size_t>(count_set(mask, at));
}

}  // namespace tallies
