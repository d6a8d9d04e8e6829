#include "torch/cuda.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "core/error.h"
#include "cuda/load.h"

namespace tallies::torch {
namespace {

using Stream = Cuda::Stream;

// Elements of all rows together that are widened at a time: enough to fill a device, and few enough
// to stay in its second-level cache.
constexpr std::size_t kWide = std::size_t(1) << 22;

const cuda::Table& table_of_device() {
  const cuda::Library& library = cuda::library();
  if (library.table == nullptr)
    throw Error(Error::Kind::request,
                "device: " + library.problem + "; or move the tensors with .cpu()");
  return *library.table;
}

bool is_wide(View x) { return x.dtype == DType::f32; }

template <class Pointer>
Pointer moved(Pointer data, DType dtype, std::size_t n_elements) {
  using Byte =
      std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return static_cast<Byte*>(data) + n_elements * size_of(dtype);
}

// Returns how many of n elements are widened at a time: all, or whole cells of inner products.
std::size_t chunk_of(std::size_t n, std::size_t n_rows) {
  return std::min(n, std::max(kWide / n_rows / kDotCell, std::size_t(1)) * kDotCell);
}

// Calls body(dtype, rows, first, n) with rows of one type: all elements at once where they are so
// already, else in chunks of float32 that are widened one after the other into the same memory.
template <class Body>
void for_each_alike(Stream& stream, const std::vector<View>& views, std::size_t n,
                    const Body& body) {
  const DType dtype = views[0].dtype;
  std::vector<const void*> rows;
  for (const View& x : views) rows.push_back(x.data);
  if (std::ranges::all_of(views, [&](View x) { return x.dtype == dtype; })) {
    body(static_cast<int>(dtype), rows.data(), std::size_t(0), n);
    return;
  }
  const std::size_t chunk = chunk_of(n, views.size());
  std::vector<float*> rooms;
  for (const View& x : views) rooms.push_back(is_wide(x) ? nullptr : stream.room<float>(chunk));
  for (std::size_t first = 0; first < n; first += chunk) {
    const std::size_t count = std::min(chunk, n - first);
    for (std::size_t i = 0; i < views.size(); ++i) {
      rows[i] = moved(views[i].data, views[i].dtype, first);
      if (is_wide(views[i])) continue;
      stream.check(stream.table().widen[static_cast<int>(views[i].dtype)](rows[i], rooms[i], count,
                                                                          stream.queue()));
      rows[i] = rooms[i];
    }
    body(static_cast<int>(DType::f32), rows.data(), first, count);
  }
}

// All of an array in float32.
const void* widened(Stream& stream, View x, std::size_t n) {
  if (x.data == nullptr || is_wide(x)) return x.data;
  float* const room = stream.room<float>(n);
  stream.check(stream.table().widen[static_cast<int>(x.dtype)](x.data, room, n, stream.queue()));
  return room;
}

// Finds ranks of magnitudes, one array after the other.
class Ranking {
 public:
  Ranking(Stream& stream, std::size_t n, bool exactly)
      : stream_(stream),
        n_(n),
        capacity_(n / 8),
        work_(stream.room<char>(stream.table().selection_bytes(capacity_))),
        cut_off_work_(exactly ? stream.room<char>(stream.table().cut_off_bytes(n)) : nullptr),
        selected_(stream.room<cuda::Selected>()) {}

  // The rank-th magnitude of expert - base; the base may be null, and null outputs are
  // not written.
  const cuda::Selected* find(const void* base, View expert, std::uint64_t rank, std::int32_t* floor,
                             cuda::CutOff* cut_off) {
    const cuda::Table& table = stream_.table();
    const auto type = static_cast<int>(expert.dtype);
    const cuda::Stream queue = stream_.queue();
    stream_.check(table.begin_selection(work_, capacity_, rank, queue));
    for (int digit = 0; digit < 3; ++digit) {
      stream_.check(table.count_digit[type](work_, digit, base, expert.data, n_, queue));
      stream_.check(table.pick_digit(work_, digit, selected_, floor, queue));
    }
    if (cut_off != nullptr) {
      stream_.check(table.begin_cut_off(selected_, rank, cut_off, queue));
      stream_.check(
          table.cut_off[type](cut_off_work_, selected_, base, expert.data, n_, cut_off, queue));
    }
    return selected_;
  }

 private:
  Stream& stream_;
  std::size_t n_, capacity_;
  void *work_, *cut_off_work_;
  cuda::Selected* selected_;
};

// The entries that each expert keeps.
struct Kept {
  std::vector<std::int32_t> floors;
  cuda::CombineThere there;
};

Kept kept(Stream& stream, const ArrayMerge& merge, const void* base,
          const std::vector<View>& experts) {
  Kept found;
  for (const Trim& trim : merge.trims)
    found.floors.push_back(trim.rank > 0 ? cuda::kFloorThere
                                         : (trim.keep_all ? kKeepAll : kKeepNone));
  if (std::ranges::none_of(merge.trims, [](const Trim& trim) { return trim.rank > 0; }))
    return found;
  Ranking ranking(stream, merge.n, merge.exactly);
  auto* const floors = stream.room<std::int32_t>(experts.size());
  auto* const cut_offs = merge.exactly ? stream.room<cuda::CutOff>(experts.size()) : nullptr;
  for (std::size_t e = 0; e < experts.size(); ++e)
    if (merge.trims[e].rank > 0)
      ranking.find(base, experts[e], merge.trims[e].rank, floors + e,
                   cut_offs == nullptr ? nullptr : cut_offs + e);
  found.there = {floors, cut_offs};
  return found;
}

// Adds the inner product of two of the rows to one place, or to two.
struct Dot {
  std::size_t a, b;
  double *sum, *mirror = nullptr;
};

void add_dots(Stream& stream, const std::vector<View>& rows, const std::vector<Dot>& dots,
              std::size_t n) {
  const auto n_stretches = [](std::size_t count) {
    return (count + kDotStretch - 1) / kDotStretch;
  };
  auto* const lanes = stream.room<double>(8 * n_stretches(n));
  for_each_alike(
      stream, rows, n, [&](int type, const void* const* x, std::size_t, std::size_t count) {
        for (const Dot& dot : dots) {
          stream.check(stream.table().dot[type](x[dot.a], x[dot.b], count, lanes, stream.queue()));
          for (double* const sum : {dot.sum, dot.mirror})
            if (sum != nullptr)
              stream.check(stream.table().fold(lanes, n_stretches(count), sum, stream.queue()));
        }
      });
}

}  // namespace

Cuda::Stream::Stream(const Tensor& like) : table_(table_of_device()), like_(like) {
  const std::int32_t device = like.device_index();
  call(aoti_torch_get_current_cuda_stream(device, &queue_));
  call(aoti_torch_create_cuda_guard(device, &guard_.handle));
  check(table_.use_device(device));
}

Cuda::Stream::Guard::~Guard() {
  if (handle != nullptr) aoti_torch_delete_cuda_guard(handle);
}

void Cuda::Stream::check(cuda::Failure failure) {
  if (failure != nullptr) throw std::runtime_error(std::string("CUDA device: ") + failure);
}

// When it is freed, torch gives it to what is queued later on this stream.
void* Cuda::Stream::allocate(std::size_t n_bytes) {
  const auto size = static_cast<std::int64_t>(n_bytes);
  rooms_.push_back(empty({&size, 1}, aoti_torch_dtype_uint8(), like_));
  return rooms_.back().mutable_data();
}

void Cuda::kth_magnitude(Stream& stream, View x, std::size_t n, std::size_t rank, float* out) {
  const cuda::Selected* const found =
      Ranking(stream, n, false).find(nullptr, x, rank, nullptr, nullptr);
  // As a float, with the canonical NaN for what all NaN rank as.
  stream.check(stream.table().narrow[0](reinterpret_cast<const float*>(&found->bits), out, 1,
                                        stream.queue()));
}

void Cuda::trim(Stream& stream, const ArrayMerge& trim) {
  const Kept found = kept(stream, trim, nullptr, trim.experts);
  stream.check(stream.table().trim[static_cast<int>(trim.out_type)](
      trim.experts[0].data, found.floors[0], found.there.floors, found.there.cut_offs, trim.out,
      trim.n, stream.queue()));
}

void Cuda::merge(Stream& stream, const ArrayMerge& merge, int) {
  DType type = merge.out_type;
  std::vector<View> experts = merge.experts;
  const void* base = merge.base;
  void* out = merge.out;
  if (std::ranges::any_of(experts, [&](View x) { return x.dtype != type; })) {
    for (View& expert : experts) expert = {widened(stream, expert, merge.n), DType::f32};
    base = widened(stream, {base, type}, merge.n);
    if (type != DType::f32) out = stream.room<float>(merge.n);
    type = DType::f32;
  }
  std::vector<const void*> rows;
  for (const View& expert : experts) rows.push_back(expert.data);
  Kept found = kept(stream, merge, base, experts);
  const auto run = [&](int zero_sign) {
    const CombineArgs args{base, rows.data(), merge.weights.data(), found.floors.data(),
                           static_cast<int>(rows.size()), merge.scale,
                           // In the order of the experts.
                           std::accumulate(merge.weights.begin(), merge.weights.end(), 0.0f),
                           zero_sign, nullptr, overflow_bits(merge.out_type), out, merge.n};
    auto* const tally = stream.cleared<CombineTally>();
    stream.check(stream.table().combine[static_cast<int>(type)][index_of(merge.rule)](
        args, &found.there, tally, stream.queue()));
    return tally;
  };
  found.there.again = run(merge.zero_sign);
  if (merge.majority && merge.rule.vote != Vote::none) run(1);
  if (out != merge.out)
    stream.check(stream.table().narrow[static_cast<int>(merge.out_type)](
        static_cast<const float*>(out), merge.out, merge.n, stream.queue()));
}

void Cuda::magnitude_mask(Stream& stream, View x, std::size_t n, std::int32_t floor, Bytes out) {
  stream.check(stream.table().magnitude_mask[static_cast<int>(x.dtype)](x.data, floor, nullptr, out,
                                                                        n, stream.queue()));
}

void Cuda::tall_mask(Stream& stream, View x, View merged, std::size_t n, float lambda, Bytes out) {
  for_each_alike(stream, {x, merged}, n,
                 [&](int type, const void* const* rows, std::size_t first, std::size_t count) {
                   stream.check(stream.table().tall_mask[type](
                       rows[0], rows[1], lambda, out + first / 8, count, stream.queue()));
                 });
}

void Cuda::consensus_mask(Stream& stream, const std::vector<ConstBytes>& masks, int at_least,
                          std::size_t n, Bytes out) {
  // The kernel counts in nine bits; more than all masks is more than all, however many it is.
  stream.check(stream.table().consensus_mask(masks.data(), static_cast<int>(masks.size()),
                                             std::min(at_least, kMaxExperts + 1), out, n,
                                             stream.queue()));
}

void Cuda::pack_bits(Stream& stream, ConstBytes mask, std::size_t n, Bytes out) {
  stream.check(stream.table().pack_bits(mask, out, n, stream.queue()));
}

void Cuda::unpack_bits(Stream& stream, ConstBytes packed, std::size_t n, Bytes out) {
  stream.check(stream.table().unpack_bits(packed, out, n, stream.queue()));
}

void Cuda::apply_mask(Stream& stream, View base, View shared, ConstBytes mask, float scale,
                      std::size_t n, void* out) {
  const cuda::Table& table = stream.table();
  auto* const largest = stream.room<std::int32_t>();  // the kernel reports it; nobody asks here
  const auto out_type = static_cast<int>(base.dtype);
  auto* const wide =
      base.dtype == shared.dtype || is_wide(base) ? nullptr : stream.room<float>(chunk_of(n, 2));
  for_each_alike(stream, {base, shared}, n,
                 [&](int type, const void* const* rows, std::size_t first, std::size_t count) {
                   void* const here = moved(out, base.dtype, first);
                   stream.check(table.apply_mask[type](rows[0], rows[1], mask + first / 8, scale,
                                                       wide == nullptr ? here : wide, count,
                                                       largest, stream.queue()));
                   if (wide != nullptr)
                     stream.check(table.narrow[out_type](wide, here, count, stream.queue()));
                 });
}

void Cuda::elect_signs(Stream& stream, const Views& deltas, const Weights& weights, bool by_count,
                       int zero_sign, bool majority, std::size_t n, std::int8_t* out) {
  std::vector<const void*> rows;
  for (const View& delta : deltas) rows.push_back(delta.data);
  const auto elect = [&](int sign, const CombineTally* again) {
    auto* const tally = stream.cleared<CombineTally>();
    stream.check(stream.table().elect_signs[static_cast<int>(deltas[0].dtype)][by_count](
        rows.data(), weights.data(), static_cast<int>(rows.size()), sign, out, n, again, tally,
        stream.queue()));
    return tally;
  };
  const CombineTally* const counted = elect(zero_sign, nullptr);
  if (majority) elect(1, counted);
}

void Cuda::disjoint_merge(Stream& stream, const Views& deltas, const Weights& weights,
                          const std::int8_t* signs, Blend blend, std::size_t n, void* out) {
  const DType dtype = deltas[0].dtype;
  std::vector<const void*> rows;
  for (const View& delta : deltas) rows.push_back(delta.data);
  const std::vector<std::int32_t> floors(deltas.size(), kKeepAll);
  const CombineArgs args{nullptr,
                         rows.data(),
                         weights.data(),
                         floors.data(),
                         static_cast<int>(rows.size()),
                         1.0f,
                         1.0f,
                         0,
                         signs,
                         overflow_bits(dtype),
                         out,
                         n};
  const int rule = index_of({Gate::all, Vote::given, blend});
  stream.check(stream.table().combine[static_cast<int>(dtype)][rule](
      args, nullptr, stream.cleared<CombineTally>(), stream.queue()));
}

void Cuda::low_rank(Stream& stream, const LowRankSum& sum) {
  const auto wide = [&](View x, std::size_t n) {
    return static_cast<const float*>(widened(stream, x, n));
  };
  stream.check(stream.table().low_rank[static_cast<int>(sum.base.dtype)](
      sum.base.data, wide(sum.left, sum.n_rows * sum.rank),
      wide(sum.right, sum.rank * sum.n_columns), sum.n_rows, sum.rank, sum.n_columns, sum.scale,
      sum.out, stream.queue()));
}

void Cuda::gram(Stream& stream, const Views& deltas, std::size_t n, double* out) {
  const std::size_t n_rows = deltas.size();
  stream.check(stream.table().clear(out, n_rows * n_rows * sizeof(double), stream.queue()));
  std::vector<Dot> dots;
  for (std::size_t i = 0; i < n_rows; ++i)
    for (std::size_t j = 0; j <= i; ++j)
      dots.push_back({i, j, out + i * n_rows + j, i == j ? nullptr : out + j * n_rows + i});
  add_dots(stream, deltas, dots, n);
}

void Cuda::block_dots(Stream& stream, View grad, const Views& deltas, std::size_t n, double* out) {
  stream.check(stream.table().clear(out, deltas.size() * sizeof(double), stream.queue()));
  Views rows = deltas;
  rows.push_back(grad);
  std::vector<Dot> dots;
  for (std::size_t t = 0; t < deltas.size(); ++t) dots.push_back({deltas.size(), t, out + t});
  add_dots(stream, rows, dots, n);
}

}  // namespace tallies::torch
