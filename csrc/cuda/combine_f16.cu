#include "cuda/combine.inl.h"

void tallies::cuda::fill_combine_f16(Table& table) { fill_combine_row<Float16>(table); }
