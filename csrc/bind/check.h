// Checks of what Python asks of a pass: once a pass, before it starts. Each throws ValueError with
// what it found and what it expected.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "bind/register.h"
#include "engine/columns.h"
#include "engine/combine.h"
#include "engine/differences.h"
#include "engine/gram.h"
#include "engine/pack.h"
#include "engine/select.h"
#include "engine/sparse.h"
#include "engine/surveys.h"

namespace tallies::bind {

// A whole job, or a slice of one.
using JobOrSlice = std::variant<std::int64_t, Slice>;
// Stands for the number of elements up to the end of the job.
inline constexpr std::uint64_t kRest = ~std::uint64_t(0);

Slice to_slice(const JobOrSlice&);

[[noreturn]] void refuse(const std::string& name, const std::string& found,
                         const std::string& expected);
void check_between(const std::string& name, std::int64_t found, std::int64_t low,
                   std::int64_t high);
void check_length(const std::string& name, std::size_t found, std::size_t expected,
                  const std::string& what);

// Returns the enum value of a code below n.
template <class Enum>
Enum to_enum(const std::string& name, int code, int n) {
  check_between(name, code, 0, n - 1);
  return static_cast<Enum>(code);
}

void check(const Limits&);
void check_job(const Plan&, std::int64_t job);
void check_base(const Plan&);
// Check tasks; slices up to the end of their job get its number of elements.
void check(const Plan&, Slice&);
void check(const Plan&, std::vector<CombineTask>&, const Rule&);
void check(const Plan&, const std::vector<CombineTask>&, Guesses*);
void check(const Plan&, std::vector<StageTask>&);
void check(const Plan&, std::vector<VarianceTask>&);
void check(const Plan&, std::vector<GramTask>&, const GramOptions&);
void check(const Plan&, std::vector<MatrixTask>&);
void check(const Plan&, std::vector<CompareTask>&);
void check(const Plan&, const std::vector<PackTask>&, const PackOptions&);
void check(const Plan&, std::vector<Unit>&, const Ranking&);

// Check the arrays of a plan (bind/check_arrays.cpp).
void check_array(const Plan&, const Array&);
void check_in_memory(const Operand&);
// The first n_values outputs are of the job's dtype, all others packed bits.
void check_outputs(const Plan&, std::size_t job, std::size_t n_values);
void check_delta(const Plan&, std::int64_t job, std::int64_t expert);
void check_merged(const Plan&, std::int64_t job);
void check_restored(const Plan&);
void check(const Plan&, const std::vector<SparseRule>&);
void check(const Plan&, const std::vector<SparseRule>&, const SparseCounts&,
           const std::vector<SparseEntries>&);

}  // namespace tallies::bind
