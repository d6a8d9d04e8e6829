#include "cuda/combine.inl.h"

void tallies::cuda::fill_combine_bf16(Table& table) { fill_combine_row<BFloat16>(table); }
