// Finds the library of CUDA kernels, when somebody asks for it.
#pragma once

#include <string>

#include "cuda/ops.h"

namespace tallies::cuda {

struct Library {
  const Table* table = nullptr;  // null if there is no device to use, and then:
  std::string problem;           // why, as one sentence
  int n_devices = 0;
};

// Opens the file _cuda.so beside this module, or the file that TALLIES_CUDA_LIBRARY names, once.
const Library& library();

}  // namespace tallies::cuda
