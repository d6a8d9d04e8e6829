// Reads exact changes and planes that were mutated, from memory of exactly their size.
#include <cstring>

#include "choices.h"
#include "core/error.h"
#include "cpu/ops.h"
#include "engine/changed_elements.h"

namespace tallies::fuzz {
namespace {

// Changes and what they own.
struct Case {
  ChangedElements changes;
  Bytes positions, values;

  void point() {
    positions.shrink_to_fit();
    values.shrink_to_fit();
    changes.blocks.shrink_to_fit();
    changes.positions = positions;
    changes.values = values;
  }
};

std::uint64_t random_size() {
  if (below(256) == 1) return kChangeBlock * below(3) + below(700);
  return below(below(4) == 0 ? 2000 : 130);
}

Case make() {
  Case made;
  made.changes.layout = static_cast<Layout>(below(kLayouts));
  made.changes.coding = static_cast<Coding>(below(kCodings));
  made.changes.n_elements = random_size();
  made.changes.unit = std::size_t(1) << below(4);
  const std::uint64_t n = made.changes.n_elements, one_in = 1 + below(below(2) == 0 ? 4 : 600);
  std::uint32_t n_values = 0;
  if (made.changes.layout == Layout::dense) n_values = static_cast<std::uint32_t>(n);
  if (made.changes.layout == Layout::gaps || made.changes.layout == Layout::mask)
    for (std::uint64_t first = 0; first < n; first += kChangeBlock) {
      const auto here = static_cast<std::size_t>(std::min<std::uint64_t>(kChangeBlock, n - first));
      Bytes mask((here + 7) / 8), gaps(here + here / kLongGap + 1);
      for (std::size_t i = 0; i < here; ++i)
        if (below(one_in) == 0) {
          mask[i / 8] = static_cast<std::uint8_t>(mask[i / 8] | 1 << i % 8);
          ++n_values;
        }
      gaps.resize(kernels().encode_gaps(mask.data(), here, gaps.data()));
      const Bytes& coded = made.changes.layout == Layout::mask ? mask : gaps;
      made.positions.insert(made.positions.end(), coded.begin(), coded.end());
      made.changes.blocks.push_back({static_cast<std::uint32_t>(made.positions.size()), n_values});
    }
  made.values = random_bytes(n_values * made.changes.unit);
  return made;
}

void mutate_bytes(Bytes& bytes) {
  const std::size_t at = below(bytes.size() + 1);
  const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
  const std::uint64_t kind = below(4);
  if (kind == 0) bytes.insert(place, static_cast<std::uint8_t>(draw(1)));
  if (at == bytes.size()) return;
  if (kind == 1) bytes.erase(place);
  if (kind == 2) bytes[at] = static_cast<std::uint8_t>(below(2) == 0 ? kLongGap : draw(1));
  if (kind == 3) bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ 1 << below(8));
}

std::uint32_t odd(std::uint32_t x) {
  const std::uint32_t found[] = {0,     ~0u,      x + 1,
                                 x - 1, 1u << 31, static_cast<std::uint32_t>(draw(4))};
  return found[below(6)];
}

void mutate(Case& one) {
  auto& [changes, positions, values] = one;
  switch (below(8)) {
    case 0:
      changes.n_elements = below(2) == 0 ? random_size() : odd(0);
      break;
    case 1:
      changes.layout = static_cast<Layout>(below(kLayouts));
      break;
    case 2:
      changes.unit = std::size_t(1) << below(4);
      break;
    case 3:
      mutate_bytes(values);
      break;
    case 4:
      if (changes.blocks.empty()) break;
      if (auto& end = changes.blocks[below(changes.blocks.size())]; below(2) == 0)
        end.positions = odd(end.positions);
      else
        end.values = odd(end.values);
      break;
    case 5:
      if (below(2) == 0)
        changes.blocks.push_back({odd(0), odd(0)});
      else if (!changes.blocks.empty())
        changes.blocks.pop_back();
      break;
    default:
      mutate_bytes(positions);
  }
}

bool is_accepted(const ChangedElements& changes) {
  try {
    check(changes);
    return true;
  } catch (const Error& error) {
    require(error.kind == Error::Kind::request, "a refusal of another kind");
    return false;
  }
}

// Makes accepted changes whole and in pieces, which must agree, and gathers what they replaced.
void use(const ChangedElements& changes, Positions& room) {
  if (changes.n_elements > (1u << 20)) return;
  const auto n = static_cast<std::size_t>(changes.n_elements);
  const Bytes before = random_bytes(n * changes.unit);
  Bytes whole = before, pieces = before, old(changes.values.size());
  apply(changes, 0, n, room, whole.data());
  for (std::size_t first = 0, size; first < n; first += size) {
    size = std::min<std::size_t>(n - first, 64 * (1 + below(40)));
    gather(changes, first, size, room, before.data() + first * changes.unit, old.data());
    apply(changes, first, size, room, pieces.data() + first * changes.unit);
  }
  require(whole == pieces, "pieces have other bytes than the whole");
  ChangedElements back = changes;
  back.coding = Coding::replacement;
  back.values = old;
  apply(back, 0, n, room, whole.data());
  require(whole == before, "the old values do not bring the old elements back");
}

}  // namespace

void try_changes() {
  static Positions room;
  Case one = make();
  one.point();
  require(is_accepted(one.changes), "changes as they are made are refused");
  if (below(16) == 1) use(one.changes, room);
  for (std::uint64_t k = 1 + below(3); k > 0; --k) mutate(one);
  one.point();
  if (is_accepted(one.changes)) use(one.changes, room);
}

void try_fields() {
  const std::size_t power = below(4), unit = std::size_t(1) << power, n = below(300);
  const Bytes values = random_bytes(n * unit), base = random_bytes(n * unit);
  const auto fields = static_cast<Fields>(below(kFields));
  const void* const known = below(2) == 0 ? nullptr : base.data();
  std::vector<Bytes> planes(unit, Bytes(n));
  std::uint8_t* to[8] = {};
  for (std::size_t p = 0; p < unit; ++p) to[p] = planes[p].data();
  kernels().split_fields[power]({values.data(), known, fields, to, n});
  Bytes out(n * unit);
  kernels().join_fields[power]({to, known, fields, out.data(), n});
  require(out == values, "planes give other elements");
}

}  // namespace tallies::fuzz
