#include <pybind11/stl.h>

#include "bind/register.h"
#include "core/error.h"
#include "cuda/load.h"
#include "engine/accelerator.h"

namespace tallies::bind {

void register_cuda(py::module_& m) {
  m.def("cuda_problem", [] { return cuda::library().problem; });
  // Name, architecture, multiprocessors and bytes of memory of each device.
  m.def("cuda_devices", [] {
    const cuda::Library& library = cuda::library();
    std::vector<std::tuple<std::string, std::string, int, std::size_t>> devices;
    for (int i = 0; i < library.n_devices; ++i) {
      cuda::Device device;
      if (const cuda::Failure failure = library.table->describe(i, &device))
        throw Error(Error::Kind::request, "CUDA device " + std::to_string(i) + ": " + failure);
      devices.emplace_back(device.name,
                           std::to_string(device.major) + "." + std::to_string(device.minor),
                           device.n_multiprocessors, device.n_bytes);
    }
    return devices;
  });
  m.def("link_rate", &link_rate, Native());
  m.def("merge_rate", [](int gate, int vote, int blend, int n_experts) {
    const int rule = index_of(to_rule(gate, vote, blend));
    const py::gil_scoped_release release;
    return merge_rate(rule, n_experts);
  });
}

}  // namespace tallies::bind
