// x86-64-v3: AVX2, BMI1, BMI2, F16C, FMA, LZCNT and MOVBE.
#define TALLIES_TABLE avx2_table
#define TALLIES_TARGET_NAME "avx2"
#define TALLIES_RUNS_HERE (__builtin_cpu_supports("x86-64-v3"))
#include "kernels/table.inl.h"
