"""Chooses between the processor and a CUDA device for a merge; the bytes are the same."""

from __future__ import annotations

from .. import cuda
from .._core import Limits, link_rate, merge_rate, rules
from ..errors import InputError
from ..spec.rules import Rule
from .codes import rule_codes
from .limits import tile_limits

# Fewer and larger copies; the second-level cache does not matter there.
_TILE_BYTES = 1 << 24
# The part of a worker's share of the device that buffers take; rounding and counts take the rest.
_USED = 15 / 16
_LEAST_BYTES = 1 << 20


def limits(
    device: str,
    max_bytes: int,
    max_vram_bytes: int,
    threads: int,
    rule: Rule,
    experts: int,
    io: int = 0,
) -> tuple[Limits, str | None]:
    """Return the limits of a merge, with memory of the device if it is used.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        max_bytes: Upper bound for buffers.
        max_vram_bytes: Upper bound for buffers on the device.
        threads: The threads of the merge.
        rule: The work on each tensor.
        experts: The number of experts.
        io: The code of how it reads its inputs.

    Returns:
        The limits, and the reason why the device was asked for and is not used, or None.

    Raises:
        InputError: ``device`` is another word, or a thread's share of the device is below 1 MiB.
    """
    on_cpu = tile_limits(max_bytes, threads, io)
    if device not in ("cpu", "cuda"):
        raise InputError(f"device: found {device!r}, expected 'cpu' or 'cuda'")
    share = int(max_vram_bytes / threads * _USED)
    if device == "cuda" and share < _LEAST_BYTES:
        raise InputError(
            f"max_vram: found {max_vram_bytes:,} bytes for {threads} threads, expected at least "
            "2MiB for each; raise it, or use fewer threads"
        )
    reason = _reason(rule, experts, threads) if device == "cuda" else None
    if device == "cpu" or reason is not None:
        return on_cpu, reason and f"--device cuda: merged on the processor instead: {reason}"
    buffer = min(on_cpu.buffer_bytes, share)
    return Limits(threads, buffer, _TILE_BYTES, share * threads, io=io), None


def _reason(rule: Rule, experts: int, threads: int) -> str | None:
    """Return why the processor is to be preferred, or None."""
    problem = cuda.problem()
    if problem is not None:
        return problem
    words = (rule.gate.value, rule.vote.value, rule.blend.value)
    if rule.at_least > 0 or words not in rules():
        return "this method has no kernel for devices"
    return _slower(rule, experts, threads)


def _slower(rule: Rule, experts: int, threads: int) -> str | None:
    """Return why the device would be slower, by a measurement of some milliseconds, or None.

    Every byte of the inputs must be copied to the device before it can be merged there. If the
    threads of the processor merge bytes faster than that copy, the device can only lose.
    """
    link = link_rate()
    merge = threads * merge_rate(*rule_codes(rule), experts)
    if link > merge:
        return None
    return (
        f"it gets its inputs at {link / 1e9:.3g} GB/s, and {threads} threads of the processor "
        f"merge them at up to {merge / 1e9:.3g} GB/s"
    )
