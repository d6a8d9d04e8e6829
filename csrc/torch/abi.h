// The part of LibTorch's stable C ABI that the operators use, as of 2.10. Declared here, so that
// torch is not needed to build; a test compiles this beside torch's own headers.
#pragma once

#include <cstddef>
#include <cstdint>

struct AtenTensorOpaque;
class TorchLibraryOpaque;
struct StableListOpaque;
struct StringOpaque;

using AOTITorchError = std::int32_t;
using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using StableListHandle = StableListOpaque*;
using StringHandle = StringOpaque*;
using StableIValue = std::uint64_t;

extern "C" {

std::int32_t aoti_torch_device_type_cpu();
std::int32_t aoti_torch_device_type_cuda();
std::int32_t aoti_torch_layout_strided();

std::int32_t aoti_torch_dtype_bfloat16();
std::int32_t aoti_torch_dtype_bool();
std::int32_t aoti_torch_dtype_complex128();
std::int32_t aoti_torch_dtype_complex64();
std::int32_t aoti_torch_dtype_float16();
std::int32_t aoti_torch_dtype_float32();
std::int32_t aoti_torch_dtype_float64();
std::int32_t aoti_torch_dtype_float8_e4m3fn();
std::int32_t aoti_torch_dtype_float8_e5m2();
std::int32_t aoti_torch_dtype_int16();
std::int32_t aoti_torch_dtype_int32();
std::int32_t aoti_torch_dtype_int64();
std::int32_t aoti_torch_dtype_int8();
std::int32_t aoti_torch_dtype_uint8();

// Handles that are returned through a pointer belong to the caller, data and sizes to the tensor.
AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle, AtenTensorHandle* copy);
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle, std::int64_t*);
AOTITorchError aoti_torch_get_numel(AtenTensorHandle, std::int64_t*);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle, std::int64_t**);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle, std::int32_t*);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, std::int32_t*);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, std::int32_t*);
AOTITorchError aoti_torch_get_layout(AtenTensorHandle, std::int32_t*);
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle, bool*);
AOTITorchError torch_get_const_data_ptr(AtenTensorHandle, const void**);
AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle, void**);
AOTITorchError aoti_torch_empty_strided(std::int64_t n_dims, const std::int64_t* sizes,
                                        const std::int64_t* strides, std::int32_t dtype,
                                        std::int32_t device_type, std::int32_t device_index,
                                        AtenTensorHandle*);
AOTITorchError aoti_torch_copy_(AtenTensorHandle to, AtenTensorHandle from,
                                std::int32_t non_blocking);

AOTITorchError torch_get_num_threads(std::uint32_t*);

AOTITorchError torch_list_size(StableListHandle, std::size_t*);
AOTITorchError torch_list_get_item(StableListHandle, std::size_t, StableIValue*);
AOTITorchError torch_delete_list(StableListHandle);
AOTITorchError torch_new_list_reserve_size(std::size_t, StableListHandle*);
AOTITorchError torch_list_push_back(StableListHandle, StableIValue);
AOTITorchError torch_string_length(StringHandle, std::size_t*);
AOTITorchError torch_string_c_str(StringHandle, const char**);
AOTITorchError torch_delete_string(StringHandle);

AOTITorchError aoti_torch_library_init_fragment(const char* ns, const char* file,
                                                std::uint32_t line, TorchLibraryHandle*);
AOTITorchError aoti_torch_library_init_impl(const char* ns, const char* key, const char* file,
                                            std::uint32_t line, TorchLibraryHandle*);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char* schema);
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name,
                                  void (*kernel)(StableIValue* stack, std::uint64_t n_arguments,
                                                 std::uint64_t n_results),
                                  std::uint64_t built_for);
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle);

// Only builds of torch for CUDA have these.
struct CUDAGuardOpaque;
using CUDAGuardHandle = CUDAGuardOpaque*;
AOTITorchError aoti_torch_create_cuda_guard(std::int32_t device_index, CUDAGuardHandle*);
AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle);
AOTITorchError aoti_torch_get_current_cuda_stream(std::int32_t device_index, void** stream);

}  // extern "C"

namespace tallies::torch {

// The version whose conventions the boxed arguments follow: major << 56 | minor << 48.
inline constexpr std::uint64_t kBuiltFor = 0x020a000000000000;

}  // namespace tallies::torch
