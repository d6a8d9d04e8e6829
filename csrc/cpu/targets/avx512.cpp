// x86-64-v4: AVX-512 F, BW, VL, DQ.
#define TALLIES_TABLE avx512_table
#define TALLIES_TARGET_NAME "avx512"
#define TALLIES_RUNS_HERE                                                     \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && \
   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
#include "kernels/table.inl.h"
