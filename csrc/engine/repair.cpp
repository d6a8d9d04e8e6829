#include "engine/repair.h"

#include <cstring>

#include "engine/floors.h"
#include "engine/views.h"

namespace tallies {
namespace {

// Stripes with fewer bytes between them are read and written at once.
constexpr std::uint64_t kJoined = 2048;

// More than any work is worth: the calling thread does it alone.
const Limits kAlone{
    .n_threads = 1, .buffer_bytes = kTileBytes, .worth_bytes = std::size_t(1) << 40};

// The elements of a tile that one candidate merges otherwise, in order.
class Repair {
 public:
  Repair(const Plan& plan, const GuessedTask& task, const GuessedTile& tile, std::size_t candidate,
         const Candidate& right, const std::vector<Patterns>& magnitudes)
      : plan_(plan),
        task_(task),
        tile_(tile),
        wrong_(task.task.candidates[candidate]),
        right_(right),
        row_(candidate) {
    const std::vector<std::uint32_t>& at = tile.listed.at;
    const std::vector<Floor> before = floors_of(wrong_), after = floors_of(right_);
    for (std::size_t i = 0; i < at.size(); ++i)
      for (std::size_t f = 0; f < before.size(); ++f) {
        const auto bits = static_cast<std::int32_t>(magnitudes[f % magnitudes.size()][i]);
        const std::uint64_t element = tile.first + at[i];
        if ((bits > before[f].at(element)) == (bits > after[f].at(element))) continue;
        changed_.push_back(i);
        break;
      }
  }

  std::size_t size() const { return changed_.size(); }

  // Merges the elements with the floors of both candidates. Returns false if a value that is not
  // finite is among the wrong results: others of the tile may be so as well.
  bool merge(GuessedTile::Merged& merged) {
    const std::size_t n = changed_.size(), n_bytes = size_of(task_.type);
    const std::size_t n_sources = plan_.sources[task_.task.slice.job].size();
    inputs_.resize(n_sources * n * n_bytes);
    for (std::size_t source = 0; source < n_sources; ++source)
      for (std::size_t i = 0; i < n; ++i)
        std::memcpy(
            inputs_.data() + (source * n + i) * n_bytes,
            tile_.listed.values.data() + (source * tile_.listed.at.size() + changed_[i]) * n_bytes,
            n_bytes);
    outputs_.resize(n * size_of(plan_.output_types[task_.task.slice.job]));
    const CombineTally before = merge_with(wrong_, merged.zero_sign);
    if (before.overflow) return false;
    const CombineTally after = merge_with(right_, merged.zero_sign);
    merged.tally.sign_sum += after.sign_sum - before.sign_sum;
    merged.tally.conflicts += after.conflicts - before.conflicts;
    merged.tally.cancellations += after.cancellations - before.cancellations;
    merged.tally.overflow |= after.overflow;
    return true;
  }

  void write(GuessedTile::Merged& merged) const {
    bool counted = !task_.has_fingerprints;
    for (const Output& output : plan_.jobs[task_.task.slice.job].outputs) {
      if (output.row != row_) continue;
      Lanes lanes = merged.output;
      write(output, lanes);
      if (!counted) merged.output = lanes;
      counted = true;
    }
  }

 private:
  std::uint64_t element(std::size_t i) const { return tile_.first + tile_.listed.at[changed_[i]]; }

  // Merges pieces in which floors and weights are the same, each as a job in memory.
  CombineTally merge_with(const Candidate& candidate, int zero_sign) {
    const std::size_t n = changed_.size(), n_experts = plan_.n_experts(task_.task.slice.job);
    const std::uint64_t row_length = candidate.row_length != 0 ? candidate.row_length : kWhole;
    Candidate here = candidate;
    here.zero_sign = zero_sign;
    here.majority = -1;
    here.row_length = 0;
    CombineTally tally;
    Candidate given = candidate;
    const std::vector<Floor> floors = floors_of(given), constant = floors_of(here);
    for (std::size_t begin = 0, end; begin < n; begin = end) {
      const std::uint64_t row = element(begin) / row_length;
      for (std::size_t f = 0; f < floors.size(); ++f) {
        *constant[f].floor = floors[f].at(element(begin));
        *constant[f].cutoff = kWhole;
      }
      const auto goes_on = [&](std::size_t i) {
        return element(i) / row_length == row &&
               std::equal(floors.begin(), floors.end(), constant.begin(),
                          [&](const Floor& one, const Floor& same) {
                            return one.at(element(i)) == *same.floor;
                          });
      };
      for (end = begin + 1; end < n && goes_on(end);) ++end;
      if (candidate.row_length != 0) {
        const auto weights =
            candidate.weights.begin() + static_cast<std::ptrdiff_t>(row * n_experts);
        here.weights.assign(weights, weights + static_cast<std::ptrdiff_t>(n_experts));
      }
      tally += merge_piece(here, begin, end - begin);
    }
    return tally;
  }

  CombineTally merge_piece(const Candidate& candidate, std::size_t begin, std::size_t n) {
    const std::size_t of_job = task_.task.slice.job, n_bytes = size_of(task_.type);
    const DType out = plan_.output_types[of_job];
    const auto in_memory = [&](const char* data, DType type) {
      return Array{-1, reinterpret_cast<std::uintptr_t>(data) + begin * size_of(type),
                   8 * size_of(type)};
    };
    Plan piece;
    piece.has_base = plan_.has_base;
    piece.output_types = {out};
    Job& job = piece.jobs.emplace_back(Job{n, {}, {}});
    std::vector<Source>& sources = piece.sources.emplace_back();
    for (std::size_t i = 0; i < plan_.sources[of_job].size(); ++i) {
      job.inputs.push_back(in_memory(inputs_.data() + i * changed_.size() * n_bytes, task_.type));
      sources.push_back({.type = task_.type, .array = static_cast<std::uint16_t>(i)});
    }
    job.outputs.emplace_back(Output{in_memory(outputs_.data(), out), 0});
    const CombineOptions options{task_.rule, false, false};
    const std::vector<CombineTask> tasks{{{0, 0, n}, {candidate}}};
    return combine(piece, tasks, options, kAlone, [](std::uint64_t) { return true; })[0]
        .candidates[0]
        .tally;
  }

  // Writes the results to one of the outputs, and changes its fingerprint.
  void write(const Output& output, Lanes& lanes) const {
    const std::size_t n_bytes = size_of(plan_.output_types[task_.task.slice.job]);
    const std::uint64_t tile_end = (tile_.first + tile_.n) * n_bytes;
    std::vector<char> bytes;
    for (std::size_t begin = 0, end; begin < changed_.size(); begin = end) {
      const std::uint64_t from = element(begin) * n_bytes / kStripe * kStripe;
      std::uint64_t to = from;
      for (end = begin; end < changed_.size(); ++end) {
        const std::uint64_t stripe = element(end) * n_bytes / kStripe * kStripe;
        if (stripe > to + kJoined) break;
        to = stripe + kStripe;
      }
      const auto n = static_cast<std::size_t>(std::min(to, tile_end) - from);
      bytes.resize(n);
      char* const in_memory = reinterpret_cast<char*>(output.offset + from);
      if (output.file < 0)
        std::memcpy(bytes.data(), in_memory, n);
      else
        plan_.files.read(output.file, bytes.data(), n, output.offset + from);
      Lanes before{}, after{};
      kernels().fingerprint(bytes.data(), n, from, before.data());
      for (std::size_t i = begin; i < end; ++i)
        std::memcpy(bytes.data() + (element(i) * n_bytes - from), outputs_.data() + i * n_bytes,
                    n_bytes);
      kernels().fingerprint(bytes.data(), n, from, after.data());
      for (std::size_t lane = 0; lane < lanes.size(); ++lane)
        lanes[lane] += after[lane] - before[lane];
      if (output.file < 0)
        std::memcpy(in_memory, bytes.data(), n);
      else
        plan_.files.write(output.file, bytes.data(), n, output.offset + from);
    }
  }

  const Plan& plan_;
  const GuessedTask& task_;
  const GuessedTile& tile_;
  Candidate wrong_, right_;
  const std::size_t row_;
  std::vector<std::size_t> changed_;  // positions in the list
  std::vector<char> inputs_;          // of these, of each source in turn
  std::vector<char> outputs_;
};

}  // namespace

std::vector<Patterns> magnitudes_of(const Plan& plan, const GuessedTask& task,
                                    const Listed& listed) {
  const std::size_t n = listed.at.size(), n_row = n * size_of(task.type);
  std::vector<Patterns> found(plan.n_experts(task.task.slice.job), Patterns(n));
  for (std::size_t e = 0; e < found.size(); ++e)
    kernels().magnitudes[static_cast<int>(task.type)](
        plan.has_base ? listed.values.data() : nullptr,
        listed.values.data() + (e + plan.has_base) * n_row, n, found[e].data());
  return found;
}

std::optional<std::size_t> repair(const Plan& plan, const GuessedTask& task, std::size_t candidate,
                                  const Candidate& right, const std::vector<Patterns>& magnitudes,
                                  GuessedTile& tile) {
  Repair one(plan, task, tile, candidate, right, magnitudes);
  if (one.size() == 0) return 0;
  if (!one.merge(tile.candidates[candidate])) return {};
  one.write(tile.candidates[candidate]);
  return one.size();
}

}  // namespace tallies
