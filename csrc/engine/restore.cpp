#include "engine/restore.h"

#include "engine/base_adder.h"
#include "engine/pass.h"
#include "engine/sparse.h"
#include "engine/views.h"

namespace tallies {
namespace {

using Form = Source::Form;

struct Scratch {
  Reader reader;
  BaseAdder adder;
};

// Copies the last source, or writes a sparse one over the base.
void replace(const Tile& tile, const Job& job, const std::vector<Source>& sources) {
  const Source& last = sources.back();
  const bool is_sparse = last.form == Form::sparse;
  const std::size_t n_bytes = job.outputs[0].bytes(tile.first, tile.n).n;
  std::memcpy(tile.out[0], tile.in[is_sparse ? sources[0].array : last.array], n_bytes);
  if (is_sparse)
    kScatter[by_size(size_of(last.type))](tile.in[last.array],
                                          static_cast<const std::uint8_t*>(tile.in[last.array + 1]),
                                          tile.n, tile.out[0]);
}

// Writes the values of a source, rounded.
void narrow(const Tile& tile, const Source& source, DType out_type, Reader& reader) {
  reader.for_each_rows(
      tile, {&source, 1}, As::float32, [&](const Rows& rows, std::size_t first, std::size_t n) {
        void* const out = static_cast<char*>(tile.out[0]) + first * size_of(out_type);
        kernels().narrow[static_cast<int>(out_type)](static_cast<const float*>(rows.values[0]), out,
                                                     n);
      });
}

// Writes base + delta. Returns the bits of the largest magnitude before it is rounded.
std::int32_t add_delta(const Tile& tile, const std::vector<Source>& sources, DType out_type,
                       Scratch& scratch) {
  const Source &base = sources[0], &delta = sources[1];
  const auto array = [&](std::size_t i) { return tile.in[delta.array + i]; };
  if (!delta.changes && is_fused(out_type) && stored_type({&base, 1}) == out_type) {
    const auto code = static_cast<int>(out_type);
    if (delta.form == Form::masked && delta.type == out_type)
      return kernels().apply_mask[code](tile.in[base.array], array(0),
                                        static_cast<const std::uint8_t*>(array(1)), delta.scale,
                                        tile.out[0], tile.n);
    if (delta.form == Form::signs)
      return kernels().apply_signs[code](tile.in[base.array],
                                         static_cast<const std::uint8_t*>(array(0)), delta.scale,
                                         tile.out[0], tile.n);
  }
  std::int32_t largest = 0;
  scratch.reader.for_each_rows(
      tile, {&delta, 1}, As::float32, [&](const Rows& rows, std::size_t first, std::size_t n) {
        void* const out = static_cast<char*>(tile.out[0]) + first * size_of(out_type);
        largest = std::max(largest, scratch.adder.add(tile, first, n, base,
                                                      static_cast<const float*>(rows.values[0]),
                                                      nullptr, 1.0f, out_type, out));
      });
  return largest;
}

}  // namespace

std::vector<Restored> restore(const Restoring& all, const Limits& limits,
                              const Progress& progress) {
  std::vector<Restored> empty;
  for (const Job& job : all.jobs) empty.emplace_back().inputs.resize(job.inputs.size());
  return run<Scratch>(
      all.files, all.jobs, limits, progress, empty,
      [&](const Tile& tile, Scratch& scratch, Restored& part) {
        const Job& job = all.jobs[tile.job];
        const std::vector<Source>& sources = all.sources[tile.job];
        for (const Source& source : sources)
          if (source.form == Form::sparse || source.form == Form::quantized)
            refuse_other_count(
                count_set(static_cast<const std::uint8_t*>(tile.in[source.array + 1]), tile.n),
                n_records(job.inputs[source.array], tile));
        const DType out_type = all.output_types[tile.job];
        if (is_copy(sources, out_type))
          replace(tile, job, sources);
        else if (sources.size() == 1)
          narrow(tile, sources[0], out_type, scratch.reader);
        else
          part.overflow = add_delta(tile, sources, out_type, scratch) >= overflow_bits(out_type);
        for (std::size_t i = 0; i < job.inputs.size(); ++i)
          part.inputs[i] = fingerprint(tile.in[i], job.inputs[i], tile.first, tile.n);
        part.output = fingerprint(tile.out[0], job.outputs[0], tile.first, tile.n);
      });
}

}  // namespace tallies
