#include "engine/array_select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <memory>

#include "cpu/ops.h"
#include "engine/decode.h"
#include "stream/threads.h"

namespace tallies {
namespace {

// Up to so many elements all magnitudes are listed, on the stack.
constexpr std::size_t kListed = kChunk;
// Elements of a sample that are read together, and standard errors to either side of its rank. A
// bracket that was missed costs another sweep, and each error more than these a longer list.
constexpr std::size_t kSampleRun = 32;
constexpr double kDeviations = 4;
// From this share of the elements inside on, branches on them are guessed wrong.
constexpr double kDense = 1.0 / 64;

View at(View x, std::size_t first) {
  if (x.data == nullptr) return x;
  return {static_cast<const char*>(x.data) + first * size_of(x.dtype), x.dtype};
}

// Calls body(type, base, x, n) for n elements from `first` on: at once where the kernels read both
// as they are, else in chunks of float32.
template <class Body>
void for_each_piece(const Delta& delta, std::size_t first, std::size_t n, const Body& body) {
  if (delta.base.data == nullptr || delta.base.dtype == delta.expert.dtype) {
    body(delta.expert.dtype, at(delta.base, first).data, at(delta.expert, first).data, n);
    return;
  }
  float both[2][kChunk];
  for (std::size_t end = first + n; first < end; first += kChunk) {
    const std::size_t n_here = std::min(kChunk, end - first);
    const View views[2] = {at(delta.base, first), at(delta.expert, first)};
    for (int i = 0; i < 2; ++i)
      kernels().widen[static_cast<int>(views[i].dtype)](views[i].data, both[i], n_here);
    body(DType::f32, both[0], both[1], n_here);
  }
}

void list(const Delta& delta, std::size_t first, std::size_t n, std::uint32_t* out) {
  for_each_piece(delta, first, n,
                 [&](DType type, const void* base, const void* x, std::size_t n_here) {
                   kernels().magnitudes[static_cast<int>(type)](base, x, n_here, out);
                   out += n_here;
                 });
}

// Returns the rank-th largest, counted from 1, of n patterns from `low` to `high`, which are
// overwritten. Bins take a third of the time of std::nth_element, whose branches no machine
// guesses.
std::uint32_t ranked_among(std::uint32_t* x, std::size_t n, std::size_t rank, std::uint32_t low,
                           std::uint32_t high) {
  constexpr std::size_t kFew = 64;
  constexpr int kBinBits = 8;
  while (n > kFew && low < high) {
    const int shift = std::max(static_cast<int>(std::bit_width(high - low)) - kBinBits, 0);
    std::uint32_t bins[1 << kBinBits] = {};
    for (std::size_t i = 0; i < n; ++i) ++bins[(x[i] - low) >> shift];
    std::uint32_t bin = (high - low) >> shift;
    for (; rank > bins[bin]; --bin) rank -= bins[bin];
    std::size_t n_same = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint32_t pattern = x[i];
      x[n_same] = pattern;
      n_same += (pattern - low) >> shift == bin;
    }
    n = n_same;
    low += bin << shift;
    high = std::min(high, low + (std::uint32_t(1) << shift) - 1);
  }
  if (low >= high) return low;
  std::uint32_t* const nth = x + (rank - 1);
  std::nth_element(x, nth, x + n, std::greater<>());
  return *nth;
}

// A cell's counts around the bracket, and the patterns inside.
struct Cell {
  SurveyTally tally;
  Patterns inside;
};

class ArraySearch {
 public:
  ArraySearch(const Delta& delta, std::size_t n, std::uint64_t rank)
      : delta_(delta), n_(n), done_(rank == 0) {
    found_.rank = rank;
  }

  bool done() const { return done_; }
  const Threshold& found() const { return found_; }
  std::vector<Cell>& cells() { return cells_; }

  // Finds the threshold among all magnitudes, which are few, or the first bracket.
  void begin(bool locate) {
    if (done_) return;
    if (n_ > kListed) return guess();
    std::uint32_t patterns[kListed], sorted[kListed];
    list(delta_, 0, n_, patterns);
    std::copy_n(patterns, n_, sorted);
    const std::uint32_t bits = ranked_among(sorted, n_, rank(), 0, kTop);
    settle(bits, count_above(patterns, n_, bits), count_equal(patterns, n_, bits));
    if (locate && is_cut()) found_.last_count = count_to(patterns, n_, left_of_equal());
  }

  void sweep(std::size_t number) {
    const std::size_t first = number * kCell, n = std::min(kCell, n_ - first);
    Cell& cell = cells_[number];
    cell = {};
    // A bracket of two neighbours has nothing inside.
    const std::size_t room = tried_.high - tried_.low > 1 ? n : 0;
    const auto interior = std::make_unique_for_overwrite<std::uint32_t[]>(room + kInteriorSlack);
    for_each_piece(delta_, first, n,
                   [&](DType type, const void* base, const void* x, std::size_t n_here) {
                     SurveyTally part;
                     kernels().survey[static_cast<int>(type)](
                         {base, x, n_here, tried_.low, tried_.high,
                          interior.get() + cell.tally.n_interior, is_dense_},
                         part);
                     cell.tally += part;
                   });
    cell.inside.assign(interior.get(), interior.get() + cell.tally.n_interior);
  }

  void learn(bool locate) {
    SurveyTally all;
    for (const Cell& cell : cells_) all += cell.tally;
    if (rank() <= all.above_high) {
      proven_.low = tried_.high + 1;
    } else if (rank() <= all.from_high) {
      settle(tried_.high, all.above_high, all.from_high - all.above_high);
    } else if (rank() <= all.above_low) {
      settle_inside(all);
    } else if (rank() <= all.from_low) {
      settle(tried_.low, all.above_low, all.from_low - all.above_low);
    } else {
      proven_.high = tried_.low - 1;
    }
    if (!done_) {
      tried_ = proven_;
      is_dense_ = true;
    } else if (locate && is_cut()) {
      locate_cut();
    }
  }

 private:
  static std::uint64_t count_above(const std::uint32_t* x, std::size_t n, std::uint32_t bits) {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < n; ++i) count += x[i] > bits;
    return count;
  }
  static std::uint64_t count_equal(const std::uint32_t* x, std::size_t n, std::uint32_t bits) {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < n; ++i) count += x[i] == bits;
    return count;
  }

  std::uint64_t rank() const { return found_.rank; }
  bool is_cut() const { return rank() < found_.n_above + found_.n_equal; }
  std::uint64_t left_of_equal() const { return rank() - found_.n_above; }

  void settle(std::int64_t bits, std::uint64_t n_above, std::uint64_t n_equal) {
    found_.bits = static_cast<std::int32_t>(bits);
    found_.n_above = n_above;
    found_.n_equal = n_equal;
    done_ = true;
  }

  void settle_inside(const SurveyTally& all) {
    Patterns inside;
    inside.reserve(all.n_interior);
    for (const Cell& cell : cells_)
      inside.insert(inside.end(), cell.inside.begin(), cell.inside.end());
    Patterns left = inside;
    const std::uint32_t bits = ranked_among(left.data(), left.size(), rank() - all.from_high,
                                            static_cast<std::uint32_t>(tried_.low),
                                            static_cast<std::uint32_t>(tried_.high));
    settle(bits, all.from_high + count_above(inside.data(), inside.size(), bits),
           count_equal(inside.data(), inside.size(), bits));
  }

  // The number of elements up to and with the left-th of the equal ones.
  std::uint64_t count_to(const std::uint32_t* x, std::size_t n, std::uint64_t left) const {
    std::size_t i = 0;
    for (; left > 0 && i < n; ++i) left -= x[i] == static_cast<std::uint32_t>(found_.bits);
    return i;
  }

  std::uint64_t n_equal_in(const Cell& cell) const {
    if (found_.bits == tried_.low) return cell.tally.from_low - cell.tally.above_low;
    if (found_.bits == tried_.high) return cell.tally.from_high - cell.tally.above_high;
    return count_equal(cell.inside.data(), cell.inside.size(),
                       static_cast<std::uint32_t>(found_.bits));
  }

  void locate_cut() {
    std::uint64_t left = left_of_equal();
    std::size_t number = 0;
    for (std::uint64_t here; (here = n_equal_in(cells_[number])) < left; ++number) left -= here;
    std::uint32_t patterns[kChunk];
    for (std::size_t first = number * kCell;; first += kChunk) {
      const std::size_t n = std::min(kChunk, n_ - first);
      list(delta_, first, n, patterns);
      const std::uint64_t here = count_equal(patterns, n, static_cast<std::uint32_t>(found_.bits));
      if (here >= left) {
        found_.last_count = first + count_to(patterns, n, left);
        return;
      }
      left -= here;
    }
  }

  // The standard error of the share that is at or above a pattern, over the runs of the sample.
  static double error_of_share(const Patterns& sample, std::uint32_t pattern, double share) {
    const std::size_t n_runs = sample.size() / kSampleRun;
    double squares = 0;
    for (std::size_t run = 0; run < n_runs; ++run) {
      std::uint32_t n_from = 0;
      for (std::size_t i = 0; i < kSampleRun; ++i)
        n_from += sample[run * kSampleRun + i] >= pattern;
      const double off = n_from / double(kSampleRun) - share;
      squares += off * off;
    }
    const double n = static_cast<double>(n_runs);
    const double of_draws = share * (1 - share) / static_cast<double>(sample.size());
    return std::sqrt(std::max(squares / (n * (n - 1)), of_draws));
  }

  // A sample that costs about as much as the list that it leaves.
  void guess() {
    const double wanted = 0.6 * std::cbrt(static_cast<double>(n_) * static_cast<double>(n_));
    const auto n_runs = static_cast<std::size_t>(std::clamp(wanted, 512.0, 524288.0)) / kSampleRun;
    Patterns sample(n_runs * kSampleRun), left(sample.size());
    for (std::size_t run = 0; run < n_runs; ++run) {
      const std::size_t first = (2 * run + 1) * (n_ / (2 * n_runs));
      list(delta_, std::min(first, n_ - kSampleRun), kSampleRun, sample.data() + run * kSampleRun);
    }
    const double n = static_cast<double>(sample.size());
    // The pattern that this share of the sample reaches.
    const auto pattern = [&](double share) {
      std::ranges::copy(sample, left.begin());
      const auto place = static_cast<std::size_t>(std::clamp(share * n, 0.0, n - 1)) + 1;
      return ranked_among(left.data(), left.size(), place, 0, kTop);
    };
    const double share = static_cast<double>(rank()) / static_cast<double>(n_);
    const double margin = kDeviations * error_of_share(sample, pattern(share), share) + 2 / n;
    tried_ = proven_;
    if (share > margin) tried_.high = static_cast<std::int32_t>(pattern(share - margin));
    if (share + margin < 1) tried_.low = static_cast<std::int32_t>(pattern(share + margin));
    is_dense_ = 2 * margin > kDense;
    cells_.resize((n_ + kCell - 1) / kCell);
  }

  const Delta& delta_;
  const std::size_t n_;
  bool done_, is_dense_ = false;
  Threshold found_;
  Bracket proven_, tried_;
  std::vector<Cell> cells_;
};

}  // namespace

std::vector<Threshold> select_in_memory(const std::vector<Delta>& deltas,
                                        const std::vector<std::uint64_t>& ranks, std::size_t n,
                                        bool locate, int n_threads) {
  std::vector<ArraySearch> searches;
  searches.reserve(deltas.size());
  for (std::size_t e = 0; e < deltas.size(); ++e) searches.emplace_back(deltas[e], n, ranks[e]);
  parallel_for(searches.size(), n_threads, [&](std::size_t e) { searches[e].begin(locate); });
  std::vector<ArraySearch*> open;
  const auto find_open = [&] {
    open.clear();
    for (ArraySearch& search : searches)
      if (!search.done()) open.push_back(&search);
    return !open.empty();
  };
  const std::size_t n_cells = (n + kCell - 1) / kCell;
  while (find_open()) {
    parallel_for(open.size() * n_cells, n_threads,
                 [&](std::size_t i) { open[i / n_cells]->sweep(i % n_cells); });
    parallel_for(open.size(), n_threads, [&](std::size_t i) { open[i]->learn(locate); });
  }
  std::vector<Threshold> found;
  found.reserve(searches.size());
  for (const ArraySearch& search : searches) found.push_back(search.found());
  return found;
}

}  // namespace tallies
