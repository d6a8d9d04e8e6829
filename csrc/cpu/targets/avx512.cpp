// x86-64-v4: AVX-512 F, BW, CD, DQ and VL.
#define TALLIES_TABLE avx512_table
#define TALLIES_TARGET_NAME "avx512"
#define TALLIES_RUNS_HERE (__builtin_cpu_supports("x86-64-v4"))
#include "kernels/table.inl.h"
