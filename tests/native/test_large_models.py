"""Large models merge to the same bits on any number of threads."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tallies import merge_state_dicts
from tests.reference.ties import ties_model
from tests.support.everywhere import Array, assert_same_bits, on_every_target
from tests.support.hard_arrays import array


def large_models(dtype: npt.DTypeLike) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    shapes = {"b": (300, 217), "a": (70_000,), "c.scalar": (), "c.empty": (0, 3), "é": (37,)}
    kinds = ("few values", "mostly zero", "nan and infinity among")

    def model(x: npt.NDArray[np.float32], scale: float) -> dict[str, Array]:
        out, at = {}, 0
        for name, shape in shapes.items():
            n = int(np.prod(shape))
            with np.errstate(all="ignore"):
                out[name] = (x[at : at + n] * np.float32(scale)).astype(dtype).reshape(shape)
            at += n
        return out

    base = model(array("smooth"), 1)
    with np.errstate(all="ignore"):
        experts = [
            {
                n: (base[n].astype(np.float32) + d.astype(np.float32)).astype(dtype)
                for n, d in m.items()
            }
            for m in (model(array(kind), 0.25) for kind in kinds)
        ]
    return base, experts


OPTIONS: list[dict[str, Any]] = [
    *(
        {"density": 0.3, "equal": e, "scope": s}
        for e in ("keep", "first")
        for s in ("model", "tensor")
    ),
    {"density": [0.01, 0.9, 0.5], "equal": "first"},
    {"density": 0.3, "semantics": "mergekit"},
]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("chosen", OPTIONS, ids=str)
def test_large_models_merge_to_the_same_bits_on_any_number_of_threads(
    dtype: npt.DTypeLike, chosen: dict[str, Any]
) -> None:
    base, experts = large_models(dtype)
    given_ = dict(chosen)
    expected = ties_model(base, experts, given_.pop("density"), **given_)
    for threads in (1, 4):
        for merged in on_every_target(
            lambda n=threads: merge_state_dicts(  # type: ignore[misc]
                base, experts, nonfinite="propagate", threads=n, **chosen
            )
        ).values():
            assert list(merged) == list(base)
            for name, tensor in merged.items():
                assert_same_bits(tensor, expected[name])
