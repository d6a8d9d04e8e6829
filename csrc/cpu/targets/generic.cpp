// Any other processor, with vectors of 128 bits (NEON of AArch64).
#define TALLIES_TABLE generic_table
#define TALLIES_TARGET_NAME "generic"
#define TALLIES_RUNS_HERE (true)
#include "kernels/table.inl.h"
