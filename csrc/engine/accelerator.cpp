#include "engine/accelerator.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "cpu/ops.h"

namespace tallies {
namespace {

void check(cuda::Failure failure, const std::string& way_out = "") {
  if (failure == nullptr) return;
  throw Error(Error::Kind::storage,
              std::string("CUDA device: ") + failure + "; " + way_out + "use --device cpu");
}

const cuda::Table& table_of_device() {
  const cuda::Library& library = cuda::library();
  if (library.table == nullptr) throw Error(Error::Kind::request, "device: " + library.problem);
  return *library.table;
}

cuda::Owned new_stream(const cuda::Table& table) {
  cuda::Stream stream = nullptr;
  check(table.create_stream(&stream));
  return cuda::Owned(stream, {table.destroy_stream});
}

cuda::Owned new_memory(const cuda::Table& table, std::size_t n_bytes) {
  void* p = nullptr;
  check(table.allocate(&p, n_bytes), "lower --max-vram, or ");
  return cuda::Owned(p, {table.release});
}

cuda::Owned new_pinned(const cuda::Table& table, std::size_t n_bytes) {
  void* p = nullptr;
  check(table.allocate_pinned(&p, n_bytes),
        "the system locks no more memory: lower --max-memory, or ");
  return cuda::Owned(p, {table.release_pinned});
}

// Arrays on the device begin at multiples of this many bytes.
constexpr std::size_t padded(std::size_t n_bytes) { return (n_bytes + 255) / 256 * 256; }

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Accelerator::Accelerator(int n_workers)
    : table_(table_of_device()), lanes_(static_cast<std::size_t>(n_workers)) {
  for (Lane& lane : lanes_) {
    lane.stream = new_stream(table_);
    lane.tally = new_pinned(table_, sizeof(CombineTally));
  }
}

Memory Accelerator::pinned() const {
  return {[this](std::size_t n_bytes) { return new_pinned(table_, n_bytes).release(); },
          [this](void* p) { table_.release_pinned(p); }};
}

void Accelerator::combine(int worker, DType type, int rule, const CombineArgs& args,
                          CombineTally& tally) {
  Lane& lane = lanes_[static_cast<std::size_t>(worker)];
  const std::size_t n_bytes = args.n * size_of(type), stride = padded(n_bytes);
  const auto n_experts = static_cast<std::size_t>(args.n_experts);
  const std::size_t needed = (n_experts + 2) * stride + padded(sizeof(CombineTally));
  if (lane.n_bytes < needed) {
    lane.memory.reset();
    lane.n_bytes = 0;
    lane.memory = new_memory(table_, needed);
    lane.n_bytes = needed;
  }
  const cuda::Stream stream = lane.stream.get();
  char* at = static_cast<char*>(lane.memory.get());
  const auto reserve = [&](std::size_t size) {
    char* const here = at;
    at += padded(size);
    return here;
  };
  auto* const counted = reinterpret_cast<CombineTally*>(reserve(sizeof(CombineTally)));
  const auto sent = [&](const void* row) -> const void* {
    char* const there = reserve(n_bytes);
    check(table_.copy(there, row, n_bytes, stream));
    return there;
  };
  std::vector<const void*> experts;
  for (std::size_t e = 0; e < n_experts; ++e) experts.push_back(sent(args.experts[e]));
  CombineArgs there = args;
  there.base = args.base == nullptr ? nullptr : sent(args.base);
  there.experts = experts.data();
  there.out = reserve(n_bytes);
  check(table_.clear(counted, sizeof(CombineTally), stream));
  check(table_.combine[static_cast<int>(type)][rule](there, nullptr, counted, stream));
  check(table_.copy(args.out, there.out, n_bytes, stream));
  check(table_.copy(lane.tally.get(), counted, sizeof(CombineTally), stream));
  check(table_.wait_for_stream(stream));
  tally += *static_cast<const CombineTally*>(lane.tally.get());
}

double link_rate() {
  constexpr std::size_t kBytes = std::size_t(32) << 20;
  const cuda::Table& table = table_of_device();
  const cuda::Owned host = new_pinned(table, kBytes), there = new_memory(table, kBytes);
  double best = 0;
  for (int round = 0; round < 4; ++round) {
    const Clock::time_point start = Clock::now();
    check(table.copy(there.get(), host.get(), kBytes, nullptr));
    check(table.wait_for_stream(nullptr));
    best = std::max(best, static_cast<double>(kBytes) / seconds_since(start));
  }
  return best;
}

double merge_rate(int rule, int n_experts) {
  constexpr std::size_t n = std::size_t(1) << 14;
  std::vector<std::uint16_t> values((static_cast<std::size_t>(n_experts) + 2) * n);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<std::uint16_t>(0x3c00 + i * 0x9e37 % 256);  // near 0.01, bfloat16
  std::vector<const void*> experts;
  for (std::size_t e = 0; e < static_cast<std::size_t>(n_experts); ++e)
    experts.push_back(values.data() + (e + 2) * n);
  const std::vector<float> weights(experts.size(), 1.0f);
  const std::vector<std::int32_t> floors(experts.size(), 0x38000000);
  const std::vector<std::int8_t> signs(n, 1);
  CombineArgs args{};
  args.base = values.data() + n;
  args.experts = experts.data();
  args.weights = weights.data();
  args.floors = floors.data();
  args.n_experts = n_experts;
  args.scale = args.divisor = 1.0f;
  args.signs = signs.data();
  args.overflow = overflow_bits(DType::bf16);
  args.out = values.data();
  args.n = n;
  CombineTally tally;
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point call = Clock::now();
    kernels().combine[static_cast<int>(DType::bf16)][rule](args, tally);
    const double n_bytes = static_cast<double>((experts.size() + 1) * n * 2);
    best = std::max(best, n_bytes / seconds_since(call));
  } while (seconds_since(start) < 0.01);
  return best;
}

}  // namespace tallies
