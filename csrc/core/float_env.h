// The floating-point environment that every result depends on.
#pragma once

#include <cstdint>

namespace tallies {

// Sets round to nearest, subnormals kept and exceptions masked for one thread while it lives, and
// then gives the thread its own environment back. The two writes of a register take about 10 ns.
class FloatEnvironment {
 public:
  FloatEnvironment() : callers_(read()) { write(kNeeded); }
  ~FloatEnvironment() { write(callers_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

  // Gives the thread its own environment back while it lives, within a FloatEnvironment.
  class OfCaller {
   public:
    explicit OfCaller(const FloatEnvironment& within) { write(within.callers_); }
    ~OfCaller() { write(kNeeded); }
    OfCaller(const OfCaller&) = delete;
    OfCaller& operator=(const OfCaller&) = delete;
  };

 private:
#if defined(__x86_64__)
  using Control = std::uint32_t;
  static constexpr Control kNeeded = 0x1f80;  // MXCSR
  static Control read() { return __builtin_ia32_stmxcsr(); }
  static void write(Control control) { __builtin_ia32_ldmxcsr(control); }
#elif defined(__aarch64__)
  using Control = std::uint64_t;
  static constexpr Control kNeeded = 0;  // FPCR
  static Control read() {
    Control control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
  }
  static void write(Control control) { asm volatile("msr fpcr, %0" : : "r"(control) : "memory"); }
#else
#error "Say how this processor's floating-point environment is read and written"
#endif
  Control callers_;
};

}  // namespace tallies
