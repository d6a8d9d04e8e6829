// The operators of CUDA tensors for tensors of the processor, whose memory the emulated kernels
// read: torch.ops.tallies_emulated. Stands in for the loader of the kernels, and for what only
// torch's builds for CUDA have.
#include "cuda/load.h"
#include "torch/cuda.h"
#include "torch/register.h"

extern "C" {
const tallies::cuda::Table* tallies_cuda_table();

AOTITorchError aoti_torch_create_cuda_guard(std::int32_t, CUDAGuardHandle*) { return 0; }
AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) { return 0; }
AOTITorchError aoti_torch_get_current_cuda_stream(std::int32_t, void**) { return 0; }
}

namespace tallies::cuda {

// Nothing may wait for the device, nor allocate on it beside torch.
const Library& library() {
  static const Table table = [] {
    Table t = *tallies_cuda_table();
    t.use_device = [](int) -> Failure { return nullptr; };
    t.wait_for_stream = [](Stream) -> Failure { return "waits for a stream"; };
    t.wait_for_event = [](Event) -> Failure { return "waits for an event"; };
    t.copy = [](void*, const void*, std::size_t, Stream) -> Failure { return "copies"; };
    t.allocate = [](void**, std::size_t) -> Failure { return "allocates by itself"; };
    return t;
  }();
  static const Library emulated{&table, "", 1};
  return emulated;
}

}  // namespace tallies::cuda

namespace {

struct Emulated : tallies::torch::Cuda {
  static std::int32_t type() { return aoti_torch_device_type_cpu(); }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* tallies_torch_emulated_register() {
  return tallies::torch::register_operators<Emulated>("CPU", true, "tallies_emulated");
}
