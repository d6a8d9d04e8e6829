#include "cuda/load.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

namespace tallies::cuda {
namespace {

namespace fs = std::filesystem;

fs::path path_of_library() {
  const char* named = std::getenv("TALLIES_CUDA_LIBRARY");
  if (named != nullptr && *named != '\0') return named;
  Dl_info here;
  if (dladdr(reinterpret_cast<const void*>(&library), &here) == 0) return "_cuda.so";
  return fs::path(here.dli_fname).parent_path() / "_cuda.so";
}

Library refused(const std::string& problem) { return {nullptr, problem, 0}; }

Library open() {
  const fs::path path = path_of_library();
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    return refused("no CUDA kernels in this build (no " + path.filename().string() +
                   "); build it where nvcc is, with TALLIES_CUDA=ON");
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return refused(std::string("the CUDA kernels do not load: ") + dlerror());
  using Get = const Table* (*)();
  const auto get = reinterpret_cast<Get>(dlsym(handle, "tallies_cuda_table"));
  const Table* const table = get == nullptr ? nullptr : get();
  if (table == nullptr || table->size != sizeof(Table) ||
      table->size_of_combine_args != sizeof(CombineArgs))
    return refused(path.string() + " is of another version of tallies; install both together");
  int n_devices = 0;
  const Failure failure = table->count_devices(&n_devices);
  const std::string version = std::to_string(table->cuda_version / 1000) + "." +
                              std::to_string(table->cuda_version % 1000 / 10);
  if (failure != nullptr)
    return refused(std::string("no usable CUDA device: ") + failure + "; built with CUDA " +
                   version + ", which needs a driver for that version or a newer one" +
                   (table->cuda_version / 1000 == 13 ? " (580 or newer)" : ""));
  if (n_devices == 0) return refused("no CUDA device on this machine");
  return {table, "", n_devices};
}

}  // namespace

const Library& library() {
  static const Library opened = open();
  return opened;
}

}  // namespace tallies::cuda
