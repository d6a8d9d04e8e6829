// Advice to the system about the pages of new memory.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace tallies {

// Asks for pages of 2 MiB, each of which is one fault where it was 512. The call has no
// effect on memory that is in use, or on a system without such pages.
inline void prefer_huge_pages(void* data, std::size_t n_bytes) {
  constexpr std::uintptr_t kPage = 1 << 12, kWorthIt = 1 << 22;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + n_bytes) / kPage * kPage;
  if (n_bytes >= kWorthIt) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace tallies
