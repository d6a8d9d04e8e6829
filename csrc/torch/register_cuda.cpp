#include "torch/cuda.h"
#include "torch/register.h"

// Called through ctypes, after the CPU's: null, or one line that says why there are no operators.
extern "C" __attribute__((visibility("default"))) const char* tallies_torch_cuda_register() {
  return tallies::torch::register_operators<tallies::torch::Cuda>("CUDA", false);
}
