// Addresses as Python hands them over, for arrays whose type and contiguity Python has checked.
#pragma once

#include <cstdint>
#include <vector>

#include "bind/register.h"

namespace tallies::bind {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class T>
std::vector<const T*> all_at(const std::vector<Address>& addresses) {
  std::vector<const T*> pointers;
  for (const Address address : addresses) pointers.push_back(at<const T>(address));
  return pointers;
}

}  // namespace tallies::bind
