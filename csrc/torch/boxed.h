// From a stack of boxed values to the arguments of a function, and back to its results. Every
// argument is owned before the function runs, so that one that throws leaks nothing.
#pragma once

#include <bit>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "torch/tensor.h"

namespace tallies::torch {

template <class T>
struct Unboxed;

template <>
struct Unboxed<std::int64_t> {
  static std::int64_t take(StableIValue value) { return static_cast<std::int64_t>(value); }
};

template <>
struct Unboxed<bool> {
  static bool take(StableIValue value) { return (value & 1) != 0; }
};

// A type in torch's numbers.
struct TypeNumber {
  std::int32_t value;
};

template <>
struct Unboxed<TypeNumber> {
  static TypeNumber take(StableIValue value) { return {static_cast<std::int32_t>(value)}; }
};

template <>
struct Unboxed<double> {
  static double take(StableIValue value) { return std::bit_cast<double>(value); }
};

template <>
struct Unboxed<Tensor> {
  static Tensor take(StableIValue value) {
    return Tensor(reinterpret_cast<AtenTensorHandle>(value));
  }
};

template <>
struct Unboxed<std::string> {
  static std::string take(StableIValue value) {
    struct Owner {
      StringHandle handle;
      ~Owner() { torch_delete_string(handle); }
    } const text{reinterpret_cast<StringHandle>(value)};
    std::size_t n = 0;
    const char* data = nullptr;
    call(torch_string_length(text.handle, &n));
    call(torch_string_c_str(text.handle, &data));
    return std::string(data, n);
  }
};

template <class T>
struct Unboxed<std::vector<T>> {
  static std::vector<T> take(StableIValue value) {
    struct Owner {
      StableListHandle handle;
      ~Owner() { torch_delete_list(handle); }
    } const list{reinterpret_cast<StableListHandle>(value)};
    std::size_t n = 0;
    call(torch_list_size(list.handle, &n));
    std::vector<T> items;
    items.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
      StableIValue item = 0;
      call(torch_list_get_item(list.handle, i, &item));
      items.push_back(Unboxed<T>::take(item));
    }
    return items;
  }
};

// A value behind a pointer, allocated with new; null for none.
template <class T>
struct Unboxed<std::optional<T>> {
  static std::optional<T> take(StableIValue value) {
    const auto* const item = reinterpret_cast<StableIValue*>(value);
    if (item == nullptr) return std::nullopt;
    const StableIValue inner = *item;
    delete item;
    return Unboxed<T>::take(inner);
  }
};

// Results go the other way; whoever takes them from the stack owns them.

inline StableIValue boxed(Tensor x) { return reinterpret_cast<StableIValue>(x.release()); }

inline StableIValue boxed(std::vector<Tensor> items) {
  StableListHandle list = nullptr;
  call(torch_new_list_reserve_size(items.size(), &list));
  for (Tensor& item : items) call(torch_list_push_back(list, boxed(std::move(item))));
  return reinterpret_cast<StableIValue>(list);
}

template <class T>
void leave(T result, StableIValue* stack) {
  stack[0] = boxed(std::move(result));
}

template <class... Results>
void leave(std::tuple<Results...> results, StableIValue* stack) {
  std::apply([&](auto&... result) { ((*stack++ = boxed(std::move(result))), ...); }, results);
}

// Calls the function with what is on the stack, and leaves its results there.
template <class Result, class... Arguments>
void unbox_and_call(Result (*function)(Arguments...), StableIValue* stack) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    // Braces, so that they are taken in order.
    std::tuple<Arguments...> arguments{Unboxed<Arguments>::take(stack[I])...};
    if constexpr (std::is_void_v<Result>)
      function(std::move(std::get<I>(arguments))...);
    else
      leave(function(std::move(std::get<I>(arguments))...), stack);
  }(std::index_sequence_for<Arguments...>());
}

}  // namespace tallies::torch
