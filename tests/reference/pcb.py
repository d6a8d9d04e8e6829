"""PCB: parameters compete by a score of their size and their agreement with the other experts'."""

from __future__ import annotations

import numpy as np

from .dtype import Floats, ieee
from .elementary import exp, tanh
from .select import magnitude_bits
from .sums import Weights, in_order_sum, weight_column

CLIP = {"global": 1e-4, "vision": 0.01}

LARGEST = np.finfo(np.float32).max


@ieee
def spread_out(x: Floats, low: np.float32, high: np.float32) -> Floats:
    """(x - low) times the reciprocal of high - low: 1 where that is zero, at most LARGEST."""
    width = np.float32(high - low)
    reciprocal = min(np.float32(1) / width, LARGEST) if width > 0 else np.float32(1)
    return (x - low) * reciprocal


def sizes(delta: Floats, clip: float) -> tuple[Floats, Floats]:
    """Clipped magnitudes of one expert, [P], and the same from 0 to 1.

    They are clipped to the sorted magnitudes at int(P clip) and int(P (1 - clip) - 1), the largest
    finite number where those are infinite or NaN.
    """
    ordered = np.sort(magnitude_bits(delta)).view(np.float32)
    places = int(delta.size * clip), int(delta.size * (1 - clip) - 1)
    low, high = (ordered[i] if np.isfinite(ordered[i]) else LARGEST for i in places)
    a = np.where(np.isnan(delta), high, np.minimum(np.maximum(np.abs(delta), low), high))
    return a, spread_out(a, low, high)


@ieee
def scores(deltas: Floats, variant: str) -> Floats:
    """exp(N n^2) tanh(x c) of task vectors [N, P]; zero where the in-order sum is not finite.

    c is the sum of the task vectors ("global"), or of their signs times their n ("vision").
    """
    total = in_order_sum(deltas)
    ns = np.stack([sizes(delta, CLIP[variant])[1] for delta in deltas])
    agreement = total if variant == "global" else in_order_sum(signed(ns, deltas))
    value = exp(ns * ns * np.float32(len(deltas))) * tanh(deltas * agreement)
    return np.asarray(np.where(np.isfinite(total), value, np.float32(0)))


def signed(a: Floats, x: Floats) -> Floats:
    """a with the sign of x, zero where x is zero."""
    return np.where(x == 0, np.float32(0), np.copysign(a, x))


@ieee
def counted(score: Floats, ratio: float) -> Floats:
    """From 0 at and below number int(P (1 - ratio)) of the sorted scores to 1 at the last."""
    place = int(score.size * (1 - ratio))
    if place == score.size:
        return np.zeros(score.shape, np.float32)
    threshold = np.sort(score)[place]
    return np.where(score > threshold, spread_out(score, threshold, score.max()), np.float32(0))


@ieee
def pcb(
    deltas: Floats, ratio: float = 0.2, variant: str = "global", weights: Weights = None
) -> Floats:
    """Return PCB's addition to the base, from the task vectors [N, P] of a whole model.

    sum of s_t w_t sign(x_t) a_t / max(sum of s_t, 1e-12). If the in-order sum of the task
    vectors is not finite, that sum.
    """
    total = in_order_sum(deltas)
    if deltas.shape[1] == 0:
        return total
    ss = np.stack([counted(score, ratio) for score in scores(deltas, variant)])
    clipped = np.stack([sizes(delta, CLIP[variant])[0] for delta in deltas])
    values = in_order_sum(signed(clipped, deltas) * weight_column(weights, deltas) * ss)
    shares = in_order_sum(ss)
    merged = values / np.maximum(shares, np.float32(1e-12))
    return np.asarray(np.where(np.isfinite(total), merged, total))
