#include "cuda/combine.inl.h"

void tallies::cuda::fill_combine_f32(Table& table) { fill_combine_row<Float32>(table); }
