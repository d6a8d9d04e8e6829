// Checks of arrays: that a pass finds records of the sizes that it moves, where it looks for them.

#include "bind/check.h"
#include "engine/restore.h"

namespace tallies::bind {
namespace {

using Form = Source::Form;

std::string text(std::uint64_t n) { return std::to_string(n); }

std::uint32_t bits_of(DType type) { return static_cast<std::uint32_t>(8 * size_of(type)); }

void check_bits(const std::string& name, std::uint64_t found, std::uint64_t expected) {
  if (found != expected) refuse(name, text(found) + " bits", text(expected) + " bits");
}

void check_plain(const std::string& name, const Source& source) {
  if (source.form != Form::plain || source.changes)
    refuse(name, "a source that is decoded", "plain values");
}

// A job whose output gets values as they are stored, of one source or, where a mask is set, of two.
void check_copy(const Job& job, const std::vector<Source>& sources) {
  const Source& last = sources.back();
  if (last.form != Form::sparse) check_plain("inputs", last);
  if (last.form == Form::sparse || sources.size() == 1) check_plain("inputs", sources[0]);
  for (const Source& source : sources)
    if (&source == &last || last.form == Form::sparse)
      check_bits("values", job.inputs[source.array].record_bits, job.outputs[0].record_bits);
}

void check_rule(const Plan& plan, const SparseRule& rule) {
  check_job(plan, static_cast<std::int64_t>(rule.job));
  check_length("experts", plan.n_experts(rule.job), 1, "whose task vector is packed");
  const std::vector<Source>& sources = plan.sources[rule.job];
  const std::uint64_t n = plan.jobs[rule.job].n_elements;
  if (rule.values == SparseValues::quantized && n % rule.row_length != 0)
    refuse("row_length", text(rule.row_length), "a divisor of " + text(n) + " elements");
  if (rule.values != SparseValues::replaced) return;
  for (const Source& source : sources) check_plain("inputs", source);
  check_bits("expert", bits_of(sources[1].type), bits_of(sources[0].type));
}

// Returns the bits of a stored value.
std::uint32_t value_bits(const Plan& plan, const SparseRule& rule, const SparseEntries& entries) {
  if (rule.values == SparseValues::quantized) return 8;
  if (rule.values == SparseValues::added) return bits_of(entries.type);
  return bits_of(plan.sources[rule.job][0].type);
}

}  // namespace

void check_array(const Plan& plan, const Array& array) {
  if (array.file < -1 || array.file >= plan.files.size())
    throw py::value_error("found file " + std::to_string(array.file) + ", expected one of the " +
                          std::to_string(plan.files.size()) + " that the plan has opened");
}

void check_in_memory(const Operand& operand) {
  for (const Array& array : operand.arrays)
    if (array.file != -1 || array.rows)
      refuse("file", std::to_string(array.file), "-1, memory, without rows of other numbers");
}

void check_outputs(const Plan& plan, std::size_t job, std::size_t n_values) {
  const std::vector<Output>& outputs = plan.jobs[job].outputs;
  for (std::size_t i = 0; i < outputs.size(); ++i)
    check_bits("outputs", outputs[i].record_bits,
               i < n_values ? bits_of(plan.output_types[job]) : 1);
}

void check_delta(const Plan& plan, std::int64_t job, std::int64_t expert) {
  check_base(plan);
  check_job(plan, job);
  const std::size_t n_sources = plan.sources[static_cast<std::size_t>(job)].size();
  check_between("expert", expert, 0, static_cast<std::int64_t>(n_sources) - 2);
}

void check_merged(const Plan& plan, std::int64_t job) {
  check_base(plan);
  check_job(plan, job);
  const auto of_job = static_cast<std::size_t>(job);
  if (plan.sources[of_job].empty()) refuse("inputs", "0", "a base");
  check_length("rows of outputs", plan.jobs[of_job].n_rows(), 1, "which gets the merged values");
  check_outputs(plan, of_job, plan.jobs[of_job].outputs.size());
}

void check_restored(const Plan& plan) {
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    const Job& job = plan.jobs[i];
    const std::vector<Source>& sources = plan.sources[i];
    if (sources.empty() || sources.size() > 2 || job.outputs.empty())
      throw py::value_error("job " + text(i) + ": found " + text(sources.size()) + " inputs and " +
                            text(job.outputs.size()) +
                            " outputs, expected a base, at most one delta, and an output");
    check_length("rows of outputs", job.n_rows(), 1, "which gets the restored values");
    if (is_copy(sources, plan.output_types[i]))
      check_copy(job, sources);
    else
      check_outputs(plan, i, job.outputs.size());
  }
}

void check(const Plan& plan, const std::vector<SparseRule>& rules) {
  check_base(plan);
  for (const SparseRule& rule : rules) check_rule(plan, rule);
}

void check(const Plan& plan, const std::vector<SparseRule>& rules, const SparseCounts& counts,
           const std::vector<SparseEntries>& entries) {
  check(plan, rules);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const SparseRule& rule = rules[i];
    const std::uint64_t n = plan.jobs[rule.job].n_elements;
    check_length("counts", counts[i].starts->size(), (n + kStrip - 1) / kStrip + 1,
                 "as count_sparse finds by the same rules");
    if (rule.values == SparseValues::quantized) {
      check_length("counts", counts[i].largest.size(), n / rule.row_length,
                   "as count_sparse finds by the same rules");
      check_bits("scales", entries[i].scales.record_bits, bits_of(DType::f32));
      check_array(plan, entries[i].scales);
    }
    check_bits("values", entries[i].values.record_bits, value_bits(plan, rule, entries[i]));
    check_array(plan, entries[i].mask);
    check_array(plan, entries[i].values);
  }
}

}  // namespace tallies::bind
