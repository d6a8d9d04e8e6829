// How Python states where arrays lie, and what operands are made of them.
#pragma once

#include <tuple>
#include <variant>
#include <vector>

#include "bind/register.h"
#include "engine/plan.h"

namespace tallies::bind {

// (file or -1, offset or address, dtype or -1 for packed bits)
using Place = std::tuple<int, std::uint64_t, int>;

// ValueError for a code that is no dtype.
DType to_dtype(int code);
Array to_array(const Place&);
// ValueError for packed bits.
Array to_values(const Place&);
// ValueError for what is not packed bits.
Array to_mask(const Place&);

// The elements of a sparse mask that are set, before each group of `per` elements.
struct GroupStarts {
  Starts starts;
  std::uint64_t per;
};

// The stored row of each row of an array; -1 for zeros.
struct StoredRows {
  RowNumbers rows;
};

// ValueError for rows, or counts of a sparse array, that are not of so many elements.
void require_elements(const Operand&, std::uint64_t n_elements);

// A plain source as its place alone, or any source.
using Input = std::variant<Place, Operand>;

Operand to_operand(const Input&);

// A change and the arrays that it is made of, before a source has them.
struct ChangeOperand {
  Change change;
  std::vector<Array> arrays;
};

// Returns a source with changes of its values: those of a tensor of which the source's first
// element is number `first`. ValueError for a source that has changes.
Operand changed(const Input& source, const std::vector<ChangeOperand>& changes,
                std::uint64_t first);

// ValueError for more experts than a merge takes, a file that the plan has not opened, a grain that
// is not a multiple of 64, and rows that do not add up to the elements.
void add_job(Plan&, std::uint64_t n_elements, const std::vector<Input>& inputs,
             const std::vector<Place>& outputs, bool apart, std::size_t grain,
             const std::vector<std::size_t>& rows);

}  // namespace tallies::bind
