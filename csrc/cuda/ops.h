// The kernels of a CUDA device as a table of functions, and what an engine or a tensor library
// needs of the device besides. Nothing here needs CUDA's headers or libraries; `load.h` finds the
// table.
//
// The kernels are those of core/table.h, with the same results: elementwise values, masks, counts
// and selections bit for bit. Arrays, tallies and results are in device memory and may start at any
// multiple of their element; arrays *of* pointers, weights and floors are in host memory and read
// before a call returns. Calls are queued on a stream and wait for nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/table.h"

namespace tallies::cuda {

using Stream = void*;         // a cudaStream_t; null is the default stream
using Event = void*;          // a cudaEvent_t
using Failure = const char*;  // null when all is well, else what is wrong, in static memory

// Masks that one call of `tall` writes at most.
inline constexpr int kMaxTallMasks = 1024;

struct Device {
  char name[256];
  int major, minor;  // of the architecture
  int n_multiprocessors;
  std::size_t n_bytes;  // of memory
};

// The result of a selection, in device memory. `floor` is the floor that keeps that magnitude and
// larger ones: bits - 1.
struct Selected {
  std::int32_t bits, floor;
  std::uint64_t n_above, n_equal;
};

// The cut-off of the entries that equal a threshold when exactly `rank` are kept, lowest
// index first: `count` elements of the array belong before the cut. `left` is how many equal ones
// are still to be kept, here and in the arrays that follow.
struct CutOff {
  std::uint64_t left, count;
};

// A floor in CombineArgs that stands for one in device memory.
inline constexpr std::int32_t kFloorThere = -0x7fffffff - 1;

// The arguments of a combine that are in device memory.
struct CombineThere {
  // One per expert; used where its floor in CombineArgs is kFloorThere.
  const std::int32_t* floors = nullptr;
  const CutOff* cut_offs =
      nullptr;  // beside the floors; null if all that equal a threshold are kept
  // Unless null: elements are merged again, and only if these tallies of the same elements elect
  // the plus sign and hold a vote that cancelled.
  const CombineTally* again = nullptr;
};

// Changes of n elements: gaps or a mask, and values, all in device memory. Two `ends` for each
// kChangeBlock elements say where their coded bytes end, and their values.
struct CodedChanges {
  const std::uint8_t* coded;
  const std::uint32_t* ends;
  const void* values;
  std::size_t n_coded, n_values, n_elements;
  void* elements;
};

struct Table {
  // The sizes of this struct and of its functions' arguments, which tell a library of another
  // version.
  std::size_t size, size_of_combine_args;
  int cuda_version;  // with which the library was built, 1000 * major + 10 * minor

  // The device.
  Failure (*count_devices)(int* n_devices);
  Failure (*describe)(int device, Device* out);
  Failure (*use_device)(int device);  // in this thread
  Failure (*allocate)(void** out, std::size_t n_bytes);
  Failure (*release)(void* p);
  Failure (*allocate_pinned)(void** out, std::size_t n_bytes);  // host memory
  Failure (*release_pinned)(void* p);
  Failure (*copy)(void* to, const void* from, std::size_t n_bytes, Stream);  // either may be host
  Failure (*clear)(void* p, std::size_t n_bytes, Stream);
  Failure (*create_stream)(Stream* out);
  Failure (*destroy_stream)(Stream);
  Failure (*wait_for_stream)(Stream);
  Failure (*create_event)(Event* out);
  Failure (*destroy_event)(Event);
  Failure (*record)(Event, Stream);
  Failure (*wait_for_event)(Event);
  Failure (*order_after)(Stream, Event);  // what follows on the stream runs after the event
  Failure (*milliseconds)(float* out, Event from, Event to);

  // As in KernelTable. Tallies and `largest` (bits of the largest magnitude of the float32 results,
  // kTop or more for NaN) are added to; clear them first.
  // CombineThere may be null. Rules that judge an entry by all experts have no function here.
  Failure (*combine[kFusedDTypes][kNRules])(const CombineArgs&, const CombineThere*, CombineTally*,
                                            Stream);
  // With `again`, which may be null, only if the signs counted there add up to plus.
  Failure (*elect_signs[kFusedDTypes][2])(const void* const* deltas, const float* weights,
                                          int n_experts, int zero_sign, std::int8_t* out,
                                          std::size_t n, const CombineTally* again, CombineTally*,
                                          Stream);
  // Entries with bits(|x|) > floor as they are, zeros with their sign, and +0 elsewhere. The floor
  // comes from `device_floor` unless it is null, and then `cut_off`, unless it is null, applies.
  Failure (*trim[kFusedDTypes])(const void* x, std::int32_t floor, const std::int32_t* device_floor,
                                const CutOff* cut_off, void* out, std::size_t n, Stream);
  Failure (*magnitudes[kFusedDTypes])(const void* base, const void* expert, std::size_t n,
                                      std::uint32_t* out, Stream);
  Failure (*widen[kDTypes])(const void* in, float* out, std::size_t n, Stream);
  Failure (*narrow[kDTypes])(const float* in, void* out, std::size_t n, Stream);
  Failure (*subtract)(const float* x, const float* base, float* out, std::size_t n, Stream);

  // The floor comes from `device_floor` unless it is null.
  Failure (*magnitude_mask[kFusedDTypes])(const void* x, std::int32_t floor,
                                          const std::int32_t* device_floor, std::uint8_t* out,
                                          std::size_t n, Stream);
  Failure (*tall_mask[kFusedDTypes])(const void* delta, const void* merged, float lambda,
                                     std::uint8_t* out, std::size_t n, Stream);
  Failure (*consensus_mask)(const std::uint8_t* const* masks, int n_masks, int at_least,
                            std::uint8_t* out, std::size_t n, Stream);
  Failure (*same_sign_mask)(const float* x, const float* u, std::uint8_t* out, std::size_t n,
                            Stream);
  Failure (*sign_mask)(const float* x, std::uint8_t* out, std::size_t n, Stream);
  // One byte an element, not 0 for one in the mask; 0 or 1.
  Failure (*pack_bits)(const std::uint8_t* in, std::uint8_t* out, std::size_t n, Stream);
  Failure (*unpack_bits)(const std::uint8_t* in, std::uint8_t* out, std::size_t n, Stream);
  Failure (*tall[kFusedDTypes])(const TallArgs&, std::int32_t* largest, Stream);
  Failure (*apply_mask[kFusedDTypes])(const void* base, const void* shared,
                                      const std::uint8_t* mask, float scale, void* out,
                                      std::size_t n, std::int32_t* largest, Stream);
  Failure (*apply_signs[kFusedDTypes])(const void* base, const std::uint8_t* mask, float size,
                                       void* out, std::size_t n, std::int32_t* largest, Stream);

  // out = base + scale * the sum over k, in order, of left[i, k] * right[k, j], rounded once; of
  // arrays without gaps, and a rank of at least one.
  Failure (*low_rank[kFusedDTypes])(const void* base, const float* left, const float* right,
                                    std::size_t n_rows, std::size_t rank, std::size_t n_columns,
                                    float scale, void* out, Stream);

  // Eight lanes for each stretch of kDotStretch elements, written, not added to.
  Failure (*dot[kFusedDTypes])(const void* a, const void* b, std::size_t n, double* lanes, Stream);
  Failure (*sum_magnitudes)(const float* x, std::size_t n, double* lanes, Stream);
  // Adds the sums of cells of lanes to *out, one cell after the other; the first is a whole one.
  Failure (*fold)(const double* lanes, std::size_t n_stretches, double* out, Stream);

  // The rank-th largest magnitude, counted from 1, of all arrays together: begin; then for each of
  // three digits `count` every array and `pick`. Up to `capacity` candidates are listed after the
  // first digit, so that the third reads no array again; an eighth of the elements is plenty.
  // `result`, and `floor` if it is not null, are written by the last pick.
  std::size_t (*selection_bytes)(std::size_t capacity);  // of `work`, in device memory
  Failure (*begin_selection)(void* work, std::size_t capacity, std::uint64_t rank, Stream);
  Failure (*count_digit[kFusedDTypes])(void* work, int digit, const void* base, const void* expert,
                                       std::size_t n, Stream);
  Failure (*pick_digit)(void* work, int digit, Selected* result, std::int32_t* floor, Stream);

  // The cut-off of the magnitudes that equal a selected one: begin, and then each array in
  // order, with a CutOff each.
  std::size_t (*cut_off_bytes)(std::size_t n);  // of `work`, in device memory
  Failure (*begin_cut_off)(const Selected* selected, std::uint64_t rank, CutOff* out, Stream);
  Failure (*cut_off[kFusedDTypes])(void* work, const Selected* selected, const void* base,
                                   const void* expert, std::size_t n, CutOff* in_out, Stream);

  // Make changes of elements of 1, 2, 4 and 8 bytes. Changes that name no element, or have no
  // value, are passed over.
  Failure (*scatter_gaps[4][kCodings])(const CodedChanges&, Stream);
  Failure (*scatter_mask[4][kCodings])(const CodedChanges&, Stream);
  Failure (*change_all[4][kCodings])(const void* values, std::size_t n, void* elements, Stream);
};

}  // namespace tallies::cuda
