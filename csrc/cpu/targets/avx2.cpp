// x86-64-v3: AVX2 and F16C.
#define TALLIES_TABLE avx2_table
#define TALLIES_TARGET_NAME "avx2"
#define TALLIES_RUNS_HERE (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
#include "kernels/table.inl.h"
