// The masks of an expert's tiles: which elements a sparse task vector stores.
#pragma once

#include "engine/sparse.h"
#include "engine/views.h"

namespace tallies {

class SparseMasks {
 public:
  SparseMasks(const Plan& plan, const std::vector<SparseRule>& rules, const Limits& limits)
      : plan_(plan), rules_(rules), readers_(static_cast<std::size_t>(limits.n_threads)) {
    for (const SparseRule& rule : rules) {
      Job& job = jobs_.emplace_back(plan.jobs[rule.job]);
      job.outputs.clear();
      job.grain = kStrip;
    }
  }

  std::vector<Job>& jobs() { return jobs_; }

  // Masks a tile, and calls body(x, first, n) for its chunks: x are float32 task vectors or, when
  // replaced, the expert's elements.
  template <class Body>
  void mask_tile(const Tile& tile, std::uint8_t* mask, const Body& body) {
    const SparseRule& rule = rules_[tile.job];
    const std::vector<Source>& sources = plan_.sources[rule.job];
    if (rule.values == SparseValues::replaced) {
      const void* const expert = tile.in[sources[1].array];
      kernels().differ[by_size(size_of(sources[0].type))](tile.in[sources[0].array], expert, mask,
                                                          tile.n);
      body(expert, 0, tile.n);
      return;
    }
    readers_[static_cast<std::size_t>(tile.worker)].for_each_rows(
        tile, sources, As::deltas, [&](const Rows& rows, std::size_t first, std::size_t n) {
          kernels().magnitude_mask(rows.deltas[0], rule.floor, mask + first / 8, n);
          body(rows.deltas[0], first, n);
        });
  }

 private:
  const Plan& plan_;
  const std::vector<SparseRule>& rules_;
  std::vector<Job> jobs_;
  std::vector<Reader> readers_;
};

}  // namespace tallies
