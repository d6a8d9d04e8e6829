// Decodes the sources of jobs from memory of exactly their size, whole and in pieces, and compares
// each value with one that is made alone.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "choices.h"
#include "cpu/ops.h"
#include "engine/decode.h"
#include "engine/set_bits.h"

namespace tallies {

// No source has changes here.
void make_changes(const Piece&, float*) {}

namespace fuzz {
namespace {

using Form = Source::Form;

template <std::size_t n>
std::uint64_t one_of(const std::uint64_t (&known)[n]) {
  return known[below(n)];
}

DType any_type() { return static_cast<DType>(below(kDTypes)); }

// A source, its tile and what they point to.
struct Case {
  Source source;
  Bytes values, mask, scales;
  std::uint64_t first = 0;
  std::size_t n = 0, n_set = 0;

  bool is_set(std::size_t i) const { return mask[i / 8] >> i % 8 & 1; }
};

std::uint64_t n_records(const Case& one, std::uint64_t per) {
  return one.n == 0 ? 0 : (one.first + one.n - 1) / per - one.first / per + 1;
}

Case make() {
  Case made;
  Source& source = made.source;
  source.form = static_cast<Form>(below(7));
  source.type = any_type();
  source.scale_type = any_type();
  source.scale = std::bit_cast<float>(static_cast<std::uint32_t>(0x3C000000 + below(65536) * 64));
  source.row_length = 1 + below(below(2) == 0 ? 8 : 700);
  source.block_rows = one_of({1, 2, 3, 128, kWhole});
  source.block_columns = one_of({1, 7, 64, 128, kWhole});
  made.first = 8 * below(below(2) == 0 ? 4 : 2000);
  made.n = static_cast<std::size_t>(below(below(8) == 0 ? 3 * kChunk : 200));
  made.mask = random_bytes((made.n + 7) / 8);
  if (const std::uint64_t kind = below(4); kind < 2)
    std::ranges::fill(made.mask, static_cast<std::uint8_t>(kind == 0 ? 0 : 255));
  for (std::uint64_t k = below(4); k > 0 && !made.mask.empty(); --k)
    made.mask[below(made.mask.size())] = static_cast<std::uint8_t>(draw(1));
  for (std::size_t i = 0; i < made.n; ++i) made.n_set += made.is_set(i);
  if (source.form == Form::sparse)
    made.values = random_bytes(made.n_set * size_of(source.type));
  else if (source.form == Form::quantized)
    made.values = random_bytes(made.n_set);
  else
    made.values = random_bytes(made.n * size_of(source.type));
  made.scales = source.form == Form::quantized
                    ? random_bytes(n_records(made, source.row_length) * sizeof(float))
                    : random_bytes(n_records(made, source.per()) * source.blocks_across() *
                                   size_of(source.scale_type));
  return made;
}

float widened(DType type, const Bytes& values, std::uint64_t i) {
  float found;
  kernels().widen[static_cast<int>(type)](values.data() + i * size_of(type), &found, 1);
  return found;
}

// Return the value of an element, in the words of engine/source.h.
float expected(const Case& one, std::size_t i, std::size_t n_before) {
  const Source& source = one.source;
  const std::uint64_t row = (one.first + i) / source.row_length;
  const std::uint64_t first_row = one.first / source.row_length;
  switch (source.form) {
    case Form::plain:
      return widened(source.type, one.values, i);
    case Form::scaled: {
      const std::uint64_t column = (one.first + i) % source.row_length;
      const std::uint64_t record = row / source.block_rows - first_row / source.block_rows;
      const std::uint64_t block = column / source.block_columns;
      return widened(source.type, one.values, i) *
             widened(source.scale_type, one.scales, record * source.blocks_across() + block);
    }
    case Form::zero:
      return 0.0f;
    case Form::masked:
      return source.scale * (one.is_set(i) ? widened(source.type, one.values, i) : 0.0f);
    case Form::signs:
      return one.is_set(i) ? source.scale : -source.scale;
    case Form::sparse:
      return one.is_set(i) ? widened(source.type, one.values, n_before) : 0.0f;
    case Form::quantized:
      return one.is_set(i) ? static_cast<float>(static_cast<std::int8_t>(one.values[n_before])) *
                                 widened(DType::f32, one.scales, row - first_row)
                           : 0.0f;
  }
  std::abort();
}

bool is_same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

void scatter_elements(const Case& one) {
  const std::size_t power = below(4), unit = std::size_t(1) << power;
  const Bytes before = random_bytes(one.n * unit), values = random_bytes(one.n_set * unit);
  Bytes after = before;
  kScatter[power](values.data(), one.mask.data(), one.n, after.data());
  for (std::size_t i = 0, next = 0; i < one.n; ++i) {
    const bool is_set = one.is_set(i);
    const Bytes& from = is_set ? values : before;
    require(std::memcmp(&after[i * unit], &from[(is_set ? next : i) * unit], unit) == 0,
            "an element has another value than its mask gives it");
    next += is_set;
  }
}

}  // namespace

void try_source() {
  const Case one = make();
  const Source& source = one.source;
  const void* in[3] = {one.values.data(), one.mask.data(), one.scales.data()};
  if (source.form == Form::signs) in[0] = one.mask.data();
  if (source.form == Form::scaled) in[1] = one.scales.data();
  const Tile tile{0, one.first, one.n, in, nullptr, 0, 0};
  std::vector<float> whole(one.n), pieces(one.n);
  std::size_t next = 0;
  decode({source, tile, 0, one.n, next}, whole.data());
  const bool is_sparse = source.form == Form::sparse || source.form == Form::quantized;
  require(next == (is_sparse ? one.n_set : 0), "another number of values was decoded");
  for (std::size_t at = 0, n; at < one.n; at += n) {
    n = std::min<std::size_t>(one.n - at, 1 + below(300));
    next = values_before(source, tile, at);
    decode({source, tile, at, n, next}, pieces.data() + at);
  }
  std::size_t n_before = 0;
  for (std::size_t i = 0; i < one.n; ++i) {
    require(is_same(whole[i], expected(one, i, n_before)), "a value is another one");
    require(is_same(whole[i], pieces[i]), "a piece has another value than the whole");
    n_before += one.is_set(i);
  }
  scatter_elements(one);
}

}  // namespace fuzz
}  // namespace tallies
