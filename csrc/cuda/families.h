// The functions that put the kernels of each source file into the table.
#pragma once

#include "cuda/ops.h"

namespace tallies::cuda {

void fill_device(Table&);
void fill_combine_f32(Table&);
void fill_combine_bf16(Table&);
void fill_combine_f16(Table&);
void fill_convert(Table&);
void fill_masks(Table&);
void fill_tall(Table&);
void fill_low_rank(Table&);
void fill_sums(Table&);
void fill_select(Table&);
void fill_cut_off(Table&);
void fill_patch(Table&);

}  // namespace tallies::cuda
