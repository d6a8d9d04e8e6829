"""Floating-point modes that a caller may have set."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

MODES = {
    "flushed results": 1 << 15,
    "flushed inputs": 1 << 6,
    "rounding down": 1 << 13,
    "rounding up": 2 << 13,
    "rounding to zero": 3 << 13,
    "all of them": 1 << 15 | 1 << 6 | 3 << 13,
}
"""Bits of the control register of x86-64, in which nearest rounding is 0."""

ON_AARCH64 = {
    1 << 15: 1 << 24,
    1 << 6: 1 << 24,
    1 << 13: 2 << 22,
    2 << 13: 1 << 22,
    3 << 13: 3 << 22,
}

REGISTER = r"""
#if defined(__x86_64__)
unsigned read_control(void) { return __builtin_ia32_stmxcsr() & ~0x3fu; }
void write_control(unsigned control) { __builtin_ia32_ldmxcsr(control); }
#else
unsigned read_control(void) {
  unsigned long control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}
void write_control(unsigned control) {
  unsigned long wide = control;
  __asm__ volatile("msr fpcr, %0" : : "r"(wide));
}
#endif
"""


@contextmanager
def mode_set(register: ctypes.CDLL, bits: int) -> Iterator[None]:
    """Run the block in a mode, which must still be set at its end."""
    before = register.read_control()
    if os.uname().machine == "aarch64":
        bits = sum({to for bit, to in ON_AARCH64.items() if bits & bit == bit})
    register.write_control(before | bits)
    try:
        yield
        after = register.read_control()
    finally:
        register.write_control(before)
    assert after == before | bits
