// The kernels that decode, in the place of csrc/cpu: a table without others is built in seconds.
#include "cpu/ops.h"
#include "kernels/convert.h"
#include "kernels/fields.h"
#include "kernels/patch.h"
#include "kernels/weighted.h"

namespace tallies {
namespace {

template <class Word, Coding... kCoding>
void add_changes(KernelTable& t, std::size_t unit) {
  ((t.scatter[unit][static_cast<int>(kCoding)] = &scatter<Word, kCoding>), ...);
  ((t.change_all[unit][static_cast<int>(kCoding)] = &change_all<Word, kCoding>), ...);
  t.gather[unit] = &gather<Word>;
  t.split_fields[unit] = &split_fields<Word>;
  t.join_fields[unit] = &join_fields<Word>;
}

template <class Word>
void add_word(KernelTable& t, std::size_t unit) {
  add_changes<Word, Coding::flip, Coding::difference, Coding::replacement, Coding::undone>(t, unit);
}

KernelTable made() {
  KernelTable t{};
  add_word<std::uint8_t>(t, 0);
  add_word<std::uint16_t>(t, 1);
  add_word<std::uint32_t>(t, 2);
  add_word<std::uint64_t>(t, 3);
  for_each_fused_type([&]<class T>() {
    t.widen[kIndex<T>] = &widen<T>;
    t.decode_masked[kIndex<T>] = &decode_masked<T>;
  });
  for_each_scalar_type([&]<class T>() { t.widen[kIndex<T>] = &widen_each<T>; });
  t.decode_signs = &decode_signs;
  t.encode_gaps = &encode_gaps;
  t.count_gaps = &count_gaps;
  t.gap_positions = &gap_positions;
  t.mask_positions = &mask_positions;
  return t;
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable table = made();
  return table;
}

}  // namespace tallies
