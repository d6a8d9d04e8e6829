// Sizes that only speed depends on. None has been tuned on a device yet: they follow from what is
// known of all architectures from 7.5 on (2048 threads a multiprocessor or fewer, 48 KiB of static
// shared memory, 16 bytes a load).
#pragma once

namespace tallies::cuda {

inline constexpr int kThreads = 256;           // a block
inline constexpr int kBlocksPerProcessor = 8;  // enough to fill it whatever a thread's registers
inline constexpr int kLoadBytes = 16;       // of each input a thread takes at a time in a combine
inline constexpr int kHistogramCopies = 4;  // neighbouring threads count in different ones
inline constexpr int kSegment = 4096;       // elements counted together to find a cut-off

}  // namespace tallies::cuda
