// whatever 128-bit vectors the compiler has (NEON on aarch64).
#define TALLIES_TABLE generic_table
#define TALLIES_TARGET_NAME "generic"
#define TALLIES_RUNS_HERE (true)
#include "kernels/table.inl.h"
