// x86-64-v2: SSE up to 4.2 and POPCNT.
#define TALLIES_TABLE baseline_table
#define TALLIES_TARGET_NAME "baseline"
#define TALLIES_RUNS_HERE (__builtin_cpu_supports("x86-64-v2"))
#include "kernels/table.inl.h"
