// The one symbol that the library exports.
#include <cuda_runtime.h>

#include "cuda/families.h"

extern "C" __attribute__((visibility("default"))) const tallies::cuda::Table* tallies_cuda_table() {
  using namespace tallies::cuda;
  static const Table table = [] {
    Table t{};
    t.size = sizeof t;
    t.size_of_combine_args = sizeof(tallies::CombineArgs);
    t.cuda_version = CUDART_VERSION;
    fill_device(t);
    fill_combine_f32(t);
    fill_combine_bf16(t);
    fill_combine_f16(t);
    fill_convert(t);
    fill_masks(t);
    fill_tall(t);
    fill_low_rank(t);
    fill_sums(t);
    fill_select(t);
    fill_cut_off(t);
    fill_patch(t);
    return t;
  }();
  return &table;
}
