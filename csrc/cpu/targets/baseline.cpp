// x86-64-v2: SSE4.1.
#define TALLIES_TABLE baseline_table
#define TALLIES_TARGET_NAME "baseline"
#define TALLIES_RUNS_HERE (__builtin_cpu_supports("sse4.1"))
#include "kernels/table.inl.h"
