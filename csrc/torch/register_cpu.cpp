#include "torch/cpu.h"
#include "torch/register.h"

// Called through ctypes: null, or one line that says why there are no operators.
extern "C" __attribute__((visibility("default"))) const char* tallies_torch_register() {
  return tallies::torch::register_operators<tallies::torch::Cpu>("CPU", true);
}
