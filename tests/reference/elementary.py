"""exp and tanh in float32, by the polynomials of the Cephes library (expf, tanhf).

Every operation is one float32 operation, so that the result is the same wherever it is computed.
"""

from __future__ import annotations

import numpy as np

from .dtype import Floats, ieee

_SHIFTER = np.float32(12582912)
"""3 * 2^22: what is added to it rounds to a whole number."""


def _polynomial(x: Floats, *coefficients: float) -> Floats:
    """The first coefficient is that of the highest power."""
    value = np.full(x.shape, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value


@ieee
def exp(y: Floats) -> Floats:
    """e^y for y from 0 to 88; above that, and for NaN, e^88.

    y = k ln 2 + r; 2^k times a polynomial in r.
    """
    y = np.where(y <= 88, y, np.float32(88))
    shifted = y * np.float32(1.44269504) + _SHIFTER
    k = shifted - _SHIFTER
    r = (y - k * np.float32(0.693359375)) - k * np.float32(-2.12194440e-4)
    p = _polynomial(
        r,
        *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
        *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
    )
    p = p * (r * r) + r + np.float32(1)
    power: Floats = ((k.astype(np.int32) + 127) << 23).view(np.float32)
    return p * power


@ieee
def tanh(z: Floats) -> Floats:
    """A polynomial for |z| <= 0.625, else 1 - 2 / (e^(2 min(|z|, 16)) + 1) with the sign of z."""
    square = z * z
    p = _polynomial(
        square,
        *(-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2),
        *(1.33314422036e-1, -3.33332819422e-1),
    )
    t = np.minimum(np.abs(z), np.float32(16))
    far = np.float32(1) - np.float32(2) / (exp(t + t) + np.float32(1))
    return np.where(np.abs(z) > np.float32(0.625), np.copysign(far, z), p * square * z + z)
