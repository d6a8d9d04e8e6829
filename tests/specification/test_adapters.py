"""The changes of adapters, on numbers that one can follow."""

import numpy as np

from tests.reference import adapters
from tests.support.bits import assert_same_bits, f32


def test_the_sum_over_the_rank_is_in_order() -> None:
    left, right = f32(2**24, 1, 1).reshape(1, 3), f32(1, 1, 1).reshape(3, 1)
    assert_same_bits(adapters.product(left, right), f32(2**24).reshape(1, 1))
    turned = adapters.product(left[:, ::-1], right)
    assert_same_bits(turned, f32(2**24 + 2).reshape(1, 1))


def test_a_stack_has_a_product_each() -> None:
    left, right = f32(1, 2).reshape(2, 1, 1), f32(3, 4, 5, 6).reshape(2, 1, 2)
    assert_same_bits(adapters.product(left, right), f32(3, 4, 10, 12).reshape(2, 1, 2))


def test_kronecker_repeats_the_right_factor() -> None:
    left, right = f32(1, 2, 3, 4).reshape(2, 2), f32(1, 10).reshape(1, 2)
    expected = f32(1, 10, 2, 20, 3, 30, 4, 40).reshape(2, 4)
    assert_same_bits(adapters.kronecker(left, right), expected)
    assert_same_bits(adapters.kronecker(left, right), np.kron(left, right))


def test_a_scale_multiplies_the_sum_and_then_it_is_added() -> None:
    change = adapters.added(f32(2**-24, 1), scale=1.5)
    assert_same_bits(change(f32(1, 1)), f32(1 + 1.5 * 2**-24, 2.5))


def test_magnitudes_of_rows_and_of_columns() -> None:
    matrix = f32(3, 4, 0, 8).reshape(2, 2)
    rows = adapters.magnitudes(f32(10, 2))(matrix)
    assert_same_bits(rows, f32(6, 8, 0, 2).reshape(2, 2))
    columns = adapters.magnitudes(f32(10, 2), of_columns=True)(matrix.T.copy())
    assert_same_bits(columns, f32(6, 0, 8, 2).reshape(2, 2))


def test_rows_stand_in_place() -> None:
    matrix = f32(1, 2, 3, 4).reshape(2, 2)
    assert_same_bits(
        adapters.rows([1], f32(9, 8).reshape(1, 2))(matrix), f32(1, 2, 9, 8).reshape(2, 2)
    )
    assert_same_bits(matrix, f32(1, 2, 3, 4).reshape(2, 2))
