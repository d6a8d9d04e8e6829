#include <atomic>
#include <cstdlib>

#include "core/error.h"
#include "cpu/ops.h"

namespace tallies {

// The object libraries of CMakeLists.txt, best first.
#if defined(TALLIES_ONLY_TARGET)
#define TALLIES_EXPANDED(X, target) X(target)
#define TALLIES_TARGETS(X) TALLIES_EXPANDED(X, TALLIES_ONLY_TARGET)
#elif defined(__x86_64__)
#define TALLIES_TARGETS(X) X(avx512) X(avx2) X(baseline)
#else
#define TALLIES_TARGETS(X) X(generic)
#endif

#define TALLIES_DECLARE(target) extern const KernelTable target##_table;
TALLIES_TARGETS(TALLIES_DECLARE)
#undef TALLIES_DECLARE

namespace {

const KernelTable& find(const std::string& name) {
  std::string known;
  for (const KernelTable* table : targets()) {
    if (name == table->target) return *table;
    known += std::string(known.empty() ? "" : ", ") + table->target;
  }
  throw Error(Error::Kind::request, "CPU target '" + name +
                                        "' is not available on this machine; available: " +
                                        (known.empty() ? "none" : known));
}

std::atomic<const KernelTable*>& in_use() {
  static std::atomic<const KernelTable*> table = [] {
    const char* forced = std::getenv("TALLIES_CPU_TARGET");
    if (forced != nullptr && *forced != '\0') return &find(forced);
    if (targets().empty())
      throw Error(Error::Kind::request,
                  "this processor lacks instructions that every kernel needs (SSE4.2 and POPCNT, "
                  "x86-64-v2); use a newer one");
    return targets().front();
  }();
  return table;
}

}  // namespace

const std::vector<const KernelTable*>& targets() {
  static const std::vector<const KernelTable*> here = [] {
    std::vector<const KernelTable*> tables;
#define TALLIES_LIST(target) \
  if (target##_table.runs_here()) tables.push_back(&target##_table);
    TALLIES_TARGETS(TALLIES_LIST)
#undef TALLIES_LIST
    return tables;
  }();
  return here;
}

const KernelTable& kernels() { return *in_use().load(); }

void set_target(const std::string& name) { in_use().store(&find(name)); }

}  // namespace tallies
