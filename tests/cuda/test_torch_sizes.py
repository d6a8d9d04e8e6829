"""Sizes at which the operators on CUDA tensors take another path."""

from __future__ import annotations

import pytest
import torch

from tests.support.cuda_place import Place
from tests.support.operators import CASES, CELL

WIDENED = 1 << 22
"""Elements of all rows together that are widened at a time."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inner_products_of_several_cells(place: Place, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 2 * CELL + 3, generator=generator).to(dtype)
    place.check("gram", [*rows])
    place.check("block_dots", rows[0].half(), [*rows[1:]])


def test_rows_of_several_types_are_widened_in_parts(place: Place) -> None:
    generator = torch.Generator().manual_seed(0)
    n, n_rows = CELL + 4321, WIDENED // CELL
    rows = torch.randn(n_rows, n, generator=generator).bfloat16()
    place.check("block_dots", rows[0].half(), [*rows])
    large = torch.randn(WIDENED // 2 + 1234, generator=generator)
    mask = torch.randint(0, 256, ((large.numel() + 7) // 8,), dtype=torch.uint8)
    place.check("apply_mask", large, large.bfloat16(), mask, 0.3)
    place.check("apply_mask", large.bfloat16(), large, mask, 0.3)
    place.check("tall_mask", large, large.flip(0).half(), 0.4)


@pytest.mark.parametrize("equal", ["keep", "first"])
@pytest.mark.parametrize("density", [0.2, 0.98])
def test_equal_magnitudes_and_either_majority(place: Place, density: float, equal: str) -> None:
    # Sixteenths: full of equal magnitudes, of zeros and of votes that cancel.
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-40, 41, (3, 20_011), generator=generator) / 16
    place.check("trim", rows[0], density, equal)
    for sign in (1, -1):
        one_sided = [sign * rows[0].abs(), sign * rows[1].abs(), -sign * rows[0].abs()]
        for experts in (one_sided, [x.bfloat16() for x in one_sided]):
            place.check("combine", None, experts, density=[density] * 3, equal=equal)
            place.check("combine", rows[2], experts, density=[density, 1.0, 0.0], equal=equal)
            place.check("elect_signs", experts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cut_offs_at_every_place(place: Place, dtype: torch.dtype) -> None:
    n = 33
    experts = [torch.full((n,), value, dtype=dtype) for value in (2.0, -3.0, 1.0)]
    for k in range(n + 1):
        kept = [(k * step % (n + 1) + 0.5) / n for step in (1, 7, 13)]
        place.check("trim", experts[0], min(kept[0], 1.0), "first")
        densities = [min(share, 1.0) for share in kept]
        place.check("combine", None, experts, density=densities, equal="first")


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1, 1), (2, 3, 4)])
def test_any_shape(place: Place, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, -2.0, dtype=torch.bfloat16)
    place.check("trim", x, 0.5)
    place.check("ties", x, [x, x.float()], [0.5, 1.0])
    place.check("magnitude_mask", x, 0.0)
    place.check("elect_signs", [x, x])
    place.check("gram", [x, x])
    place.check("block_dots", x, [x, x])


# Their counts would wait for a device: a tensor there is refused.
COUNTED = ("kth_magnitude_counted", "trim_counted", "masked_mean")


@pytest.mark.parametrize("name", COUNTED)
def test_operators_of_the_processor_refuse_a_device(place: Place, name: str) -> None:
    given_, keywords = CASES[name]
    with pytest.raises(RuntimeError, match=f"{name}: .*expected one on the CPU"):
        place.check(name, *given_, **keywords)


@pytest.mark.parametrize("name", [name for name in CASES if name not in (*COUNTED, "combine_many")])
def test_every_operator(place: Place, name: str) -> None:
    given_, keywords = CASES[name]
    place.check(name, *given_, **keywords)
