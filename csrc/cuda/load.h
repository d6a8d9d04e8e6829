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

// Of the file _cuda.so beside this module, or that which TALLIES_CUDA_LIBRARY names; opened once.
const Library& library();

}  // namespace tallies::cuda
