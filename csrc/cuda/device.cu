// Devices, memory, streams and events.
#include <cstring>

#include "cuda/families.h"
#include "cuda/launch.h"

namespace tallies::cuda {
namespace {

cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(Event event) { return static_cast<cudaEvent_t>(event); }

Failure describe(int device, Device* out) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return failure(error);
  std::memset(out, 0, sizeof *out);
  std::strncpy(out->name, properties.name, sizeof out->name - 1);
  out->major = properties.major;
  out->minor = properties.minor;
  out->n_multiprocessors = properties.multiProcessorCount;
  out->n_bytes = properties.totalGlobalMem;
  return nullptr;
}

// Does not wait for kernels that were queued on the default stream, as cudaStreamDefault would.
Failure create_stream(Stream* out) {
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  *out = stream;
  return failure(error);
}

Failure create_event(Event* out) {
  cudaEvent_t event = nullptr;
  const cudaError_t error = cudaEventCreate(&event);
  *out = event;
  return failure(error);
}

}  // namespace

void fill_device(Table& t) {
  t.count_devices = [](int* n) { return failure(cudaGetDeviceCount(n)); };
  t.describe = &describe;
  t.use_device = [](int device) { return failure(cudaSetDevice(device)); };
  t.allocate = [](void** out, std::size_t n) { return failure(cudaMalloc(out, n)); };
  t.release = [](void* p) { return failure(cudaFree(p)); };
  t.allocate_pinned = [](void** out, std::size_t n) { return failure(cudaMallocHost(out, n)); };
  t.release_pinned = [](void* p) { return failure(cudaFreeHost(p)); };
  t.copy = [](void* to, const void* from, std::size_t n, Stream stream) {
    return failure(cudaMemcpyAsync(to, from, n, cudaMemcpyDefault, stream_of(stream)));
  };
  t.clear = [](void* p, std::size_t n, Stream stream) {
    return failure(cudaMemsetAsync(p, 0, n, stream_of(stream)));
  };
  t.create_stream = &create_stream;
  t.destroy_stream = [](Stream s) { return failure(cudaStreamDestroy(stream_of(s))); };
  t.wait_for_stream = [](Stream s) { return failure(cudaStreamSynchronize(stream_of(s))); };
  t.create_event = &create_event;
  t.destroy_event = [](Event e) { return failure(cudaEventDestroy(event_of(e))); };
  t.record = [](Event e, Stream s) { return failure(cudaEventRecord(event_of(e), stream_of(s))); };
  t.wait_for_event = [](Event e) { return failure(cudaEventSynchronize(event_of(e))); };
  t.order_after = [](Stream s, Event e) {
    return failure(cudaStreamWaitEvent(stream_of(s), event_of(e), 0));
  };
  t.milliseconds = [](float* out, Event from, Event to) {
    return failure(cudaEventElapsedTime(out, event_of(from), event_of(to)));
  };
}

}  // namespace tallies::cuda
