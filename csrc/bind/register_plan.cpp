#include "bind/plan.h"
#include "bind/sources.h"
#include "engine/surveys.h"
#include "stream/fill.h"

namespace tallies::bind {
namespace {

void check_file(const Plan& plan, int file) {
  check_between("file", file, 0, plan.files.size() - 1);
}

}  // namespace

void register_plan(py::module_& m) {
  m.def("rules", [] {
    std::vector<std::tuple<std::string, std::string, std::string>> words;
    for (int i = 0; i < kNRules; ++i)
      if (stands_alone(kRules[i]))
        words.emplace_back(kRuleWords[i].gate, kRuleWords[i].vote, kRuleWords[i].blend);
    return words;
  });

  py::class_<Limits>(m, "Limits")
      .def(py::init([](int n_threads, std::size_t buffer_bytes, std::size_t tile_bytes,
                       std::size_t device_bytes, std::size_t worth_bytes, int io,
                       std::size_t list_bytes) {
             Limits limits{n_threads, buffer_bytes, tile_bytes, device_bytes, worth_bytes};
             limits.io = to_enum<Io>("io", io, 3);
             limits.list_bytes = list_bytes;
             check(limits);
             return limits;
           }),
           py::arg("n_threads"), py::arg("buffer_bytes"), py::arg("tile_bytes") = kTileBytes,
           py::arg("device_bytes") = 0, py::arg("worth_bytes") = 0, py::arg("io") = 0,
           py::arg("list_bytes") = 0)
      .def(
          "with_threads",
          [](const Limits& limits, int n_threads) {
            Limits others = limits;
            others.n_threads = n_threads;
            check(others);
            return others;
          },
          py::arg("n_threads"))
      .def_readonly("n_threads", &Limits::n_threads)
      .def_readonly("buffer_bytes", &Limits::buffer_bytes)
      .def_readonly("device_bytes", &Limits::device_bytes)
      .def_readonly("list_bytes", &Limits::list_bytes)
      .def_property_readonly("bytes_direct",
                             [](const Limits& limits) { return limits.n_direct->load(); });

  py::class_<Slice>(m, "Slice")
      .def(py::init(
               [](std::size_t job, std::uint64_t first, std::optional<std::uint64_t> n_elements) {
                 return Slice{job, first, n_elements.value_or(kRest)};
               }),
           py::kw_only(), py::arg("job"), py::arg("first") = 0, py::arg("n_elements") = py::none());

  py::class_<Plan>(m, "Plan")
      .def(py::init([](bool has_base) {
             auto plan = std::make_unique<Plan>();
             plan->has_base = has_base;
             return plan;
           }),
           py::arg("has_base"))
      .def(
          "open_to_read",
          [](Plan& plan, const std::string& path) { return plan.files.open_to_read(path); },
          py::arg("path"))
      .def(
          "open_to_write",
          [](Plan& plan, const std::string& path, std::uint64_t n_bytes) {
            const py::gil_scoped_release release;
            return plan.files.open_to_write(path, n_bytes);
          },
          py::arg("path"), py::arg("n_bytes"))
      .def(
          "write",
          [](const Plan& plan, int file, const py::bytes& data, std::uint64_t offset) {
            check_file(plan, file);
            const std::string_view view = data;
            plan.files.write(file, view.data(), view.size(), offset);
          },
          py::arg("file"), py::arg("data"), py::arg("offset"))
      .def(
          "close",
          [](Plan& plan, int file) {
            check_file(plan, file);
            const py::gil_scoped_release release;
            plan.files.close(file);
          },
          py::arg("file"))
      .def("add_job", &add_job, py::arg("n_elements"), py::arg("inputs"), py::arg("outputs"),
           py::arg("apart") = false, py::arg("grain") = kGrain,
           py::arg("rows") = std::vector<std::size_t>())
      .def(
          "hold",
          [](Plan& plan, const std::vector<std::int64_t>& jobs, std::size_t n_bytes) {
            std::vector<std::size_t> which;
            for (const std::int64_t job : jobs) {
              check_job(plan, job);
              which.push_back(static_cast<std::size_t>(job));
            }
            return plan.held.hold(plan.jobs, which, n_bytes);
          },
          py::kw_only(), py::arg("jobs"), py::arg("n_bytes"))
      .def(
          "fill",
          [](const Plan& plan, const Limits& limits, py::object progress) {
            run_pass(std::move(progress), limits, [&](const Progress& on_progress) {
              return fill(plan.files, plan.jobs, plan.held.holding(), limits, on_progress);
            });
          },
          py::kw_only(), py::arg("limits"), py::arg("progress") = py::none())
      .def(
          "fingerprints",
          [](const Plan& plan, const Limits& limits) {
            for (const Job& job : plan.jobs)
              if (job.inputs.empty()) refuse("inputs", "0", "1 or more of every job");
            return run_pass(py::none(), limits, [&](const Progress& on_progress) {
              return fingerprints(plan, limits, on_progress);
            });
          },
          py::kw_only(), py::arg("limits"))
      .def(
          "find_nonfinite",
          [](const Plan& plan, std::int64_t job, std::int64_t input, const Limits& limits) {
            check_job(plan, job);
            const auto of_job = static_cast<std::size_t>(job);
            check_between("input", input, 0,
                          static_cast<std::int64_t>(plan.sources[of_job].size()) - 1);
            const NonFinite found = run_pass(py::none(), limits, [&](const Progress& on_progress) {
              return find_nonfinite(plan, of_job, static_cast<std::size_t>(input), limits,
                                    on_progress);
            });
            return std::make_pair(found.count, found.first);
          },
          py::kw_only(), py::arg("job"), py::arg("input"), py::arg("limits"));
}

}  // namespace tallies::bind
