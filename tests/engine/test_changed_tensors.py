"""Tensors that adapters change, as passes and results read them from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tallies._core import Limits, Plan, Source, read_delta
from tallies.checkpoint.changes import (
    Added,
    Change,
    Hadamard,
    Kronecker,
    Magnitudes,
    Product,
    Rows,
)
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.data import same_bytes, same_form
from tallies.checkpoint.scaled import with_scales
from tallies.checkpoint.tensors import TensorInfo
from tallies.engine.changes import kept_bytes
from tallies.engine.decoding import decoded_chunks
from tallies.engine.files import (
    Operand,
    PlanFiles,
    grain_of,
    moved_operand,
    n_arrays,
    native,
)
from tallies.engine.fingerprints import content, copy_out, tensor_fingerprint
from tallies.engine.nonfinite import find_nonfinite, nonfinite_tensor, objection
from tests.reference import changes as reference
from tests.reference.dtype import narrow, widen
from tests.reference.scaled import scaled
from tests.support.checkpoints import write
from tests.support.everywhere import assert_same_bits

Array = npt.NDArray[Any]
LIMITS = Limits(2, 1 << 16)
SHAPE = (48, 200)
BF16 = np.dtype(ml_dtypes.bfloat16)


def normal(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


ARRAYS = {
    "weight": normal(0, *SHAPE, dtype=BF16),
    "left": normal(1, 48, 5),
    "right": normal(2, 5, 200, dtype=np.float16),
    "right.T": normal(3, 200, 5),
    "lefts": normal(4, 6, 8, 3),
    "rights": normal(5, 6, 3, 200, dtype=BF16),
    "a": normal(6, 12, 4),
    "b": normal(7, 4, 2, 5, 5),
    "b.left": normal(8, 4, 3),
    "b.right": normal(9, 3, 50),
    "difference": normal(10, *SHAPE, dtype=np.float16),
    "rows": normal(11, 48, dtype=BF16),
    "columns": normal(12, 200),
    "tokens": normal(13, 2, 200, dtype=BF16),
    "few": normal(14, 10, 5),
    "nan": np.full((5, 200), np.nan, np.float32),
}


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, TensorInfo]:
    """The arrays in files of two checkpoints, and a transposed view of one of them."""
    own = {name: one for name, one in ARRAYS.items() if name != "weight"}
    base = Checkpoint.open(write(tmp_path / "base.safetensors", {"weight": ARRAYS["weight"]}))
    other = Checkpoint.open(write(tmp_path / "other.safetensors", own))
    found = {**base.tensors, **other.tensors}
    found["right.T"] = replace(found["right.T"], shape=(5, 200), strides=(1, 5))
    return found


def x() -> Array:
    return widen(ARRAYS["weight"])


def case(name: str, at: dict[str, TensorInfo]) -> tuple[tuple[Change, ...], Array, int]:
    """Changes of the weight, the weight that they make, and the number of arrays they have."""
    of = ARRAYS
    product = Product(at["left"], at["right"], 0.3)
    with_product = reference.add_product(x(), of["left"], of["right"], 0.3)
    match name:
        case "product":
            return (product,), with_product, 2
        case "view":
            made = reference.add_product(x(), of["left"], of["right.T"].T, 0.5)
            return (Product(at["left"], at["right.T"], 0.5),), made, 2
        case "stack":
            made = reference.add_product(x(), of["lefts"], of["rights"], 2.0)
            return (Product(at["lefts"], at["rights"], 2.0),), made, 2
        case "part":
            made = reference.add_product(x(), of["few"], of["right"], 2.0, 7)
            return (Product(at["few"], at["right"], 2.0, 7),), made, 2
        case "hadamard":
            other = Product(at["left"], at["right.T"])
            made = reference.add_hadamard(
                x(), (of["left"], of["right"]), (of["left"], of["right.T"].T), 0.7
            )
            return (Hadamard(Product(at["left"], at["right"]), other, 0.7),), made, 4
        case "kronecker":
            made = reference.add_kronecker(x(), of["a"], of["b"].reshape(4, 50), 0.7)
            return (Kronecker(at["a"], at["b"], 0.7),), made, 2
        case "kronecker of a product":
            both = (of["b.left"], of["b.right"])
            made = reference.add_kronecker(x(), of["a"], both, 0.7)
            return (Kronecker(at["a"], Product(at["b.left"], at["b.right"]), 0.7),), made, 3
        case "difference":
            return (Added(at["difference"], 0.5),), reference.add(x(), of["difference"], 0.5), 1
        case "tokens":
            made = reference.replace_rows(x(), (3, 40), of["tokens"])
            return (Rows((3, 40), at["tokens"]),), made, 1
        case "row norms":
            made = reference.multiply_rows(
                with_product, reference.norm_factors(with_product, of["rows"])
            )
            return (product, Magnitudes(at["rows"], 200)), made, 3
        case "column norms":
            factors = reference.norm_factors(with_product, of["columns"], of_columns=True)
            made = reference.multiply_columns(with_product, factors)
            return (product, Magnitudes(at["columns"], 200, of_columns=True)), made, 3
        case _:
            factors = reference.norm_factors(with_product, of["rows"])
            made = reference.multiply_rows(with_product, factors)
            made = reference.add_product(made, of["left"], of["right.T"].T)
            made = reference.multiply_rows(made, reference.norm_factors(made, of["rows"]))
            changes = (
                product,
                Magnitudes(at["rows"], 200),
                Product(at["left"], at["right.T"]),
                Magnitudes(at["rows"], 200),
            )
            return changes, made, 6


CASES = [
    *("product", "view", "stack", "part", "hadamard", "kronecker", "kronecker of a product"),
    *("difference", "tokens", "row norms", "column norms", "two adapters"),
]


def read(plan: Plan, operand: Operand, n: int) -> Array:
    """The values of an operand as a pass reads them."""
    out = np.empty(n, np.float32)
    plan.add_job(n, [Source.zero(), native(operand)], [])
    read_delta(plan=plan, job=0, expert=0, out=out.ctypes.data, limits=LIMITS)
    return out


@pytest.mark.parametrize("name", CASES)
def test_the_values_of_a_changed_tensor(stored: dict[str, TensorInfo], name: str) -> None:
    changes, expected, n_of_changes = case(name, stored)
    tensor = replace(stored["weight"], changes=changes)
    assert tensor.is_decoded
    files = PlanFiles(Plan(True))
    operand = files.operand(tensor)
    assert n_arrays(operand) == 1 + n_of_changes
    assert grain_of(operand) == 1
    assert_same_bits(read(files.plan, operand, 9600).reshape(SHAPE), expected)
    rest = files.open_again()
    values = read(rest, moved_operand(operand, 777), 9600 - 777)
    assert_same_bits(values, expected.ravel()[777:])


@pytest.mark.parametrize("name", CASES)
def test_bytes_of_results_are_decoded(stored: dict[str, TensorInfo], name: str) -> None:
    changes, expected, _ = case(name, stored)
    tensor = replace(stored["weight"], changes=changes)
    data = bytearray(b"".join(decoded_chunks(tensor)))
    assert_same_bits(np.frombuffer(data, BF16), narrow(expected, BF16).ravel())
    wide = bytearray(b"".join(decoded_chunks(tensor, "F32", first=333)))
    assert_same_bits(np.frombuffer(wide, np.float32), expected.ravel()[333:])
    copied = bytearray(len(data))

    def put(part: bytes, at: int) -> None:
        copied[at : at + len(part)] = part

    copy_out(tensor, put)
    assert copied == data


def test_a_task_vector_of_changes(stored: dict[str, TensorInfo]) -> None:
    files = PlanFiles(Plan(True))
    product = Product(stored["left"], stored["right"], 0.3)
    operand = files.task_vector([product], SHAPE)
    zeros = np.zeros(SHAPE, np.float32)
    expected = reference.add_product(zeros, ARRAYS["left"], ARRAYS["right"], 0.3)
    assert n_arrays(operand) == 2
    assert_same_bits(read(files.plan, operand, 9600).reshape(SHAPE), expected)


def test_changes_behind_scales(tmp_path: Path, stored: dict[str, TensorInfo]) -> None:
    """A float8 weight with scales of 16 x 64 elements, changed in float32."""
    values = normal(20, *SHAPE, dtype=ml_dtypes.float8_e4m3fn)
    scales = normal(21, 3, 4)
    config = {
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 64]},
    }
    model = {"w.weight": values, "w.weight_scale_inv": scales}
    opened = with_scales(Checkpoint.open(write(tmp_path / "float8", model, config=config)))
    tensor = replace(
        opened.tensors["w.weight"], changes=(Product(stored["left"], stored["right"]),)
    )
    expected = reference.add_product(
        scaled(values, scales, 16, 64), ARRAYS["left"], ARRAYS["right"]
    )
    files = PlanFiles(Plan(True))
    operand = files.operand(tensor)
    assert (n_arrays(operand), grain_of(operand)) == (4, 3200)
    assert_same_bits(read(files.plan, operand, 9600).reshape(SHAPE), expected)
    values = read(files.open_again(), moved_operand(operand, 3200), 6400)
    assert_same_bits(values, expected.ravel()[3200:])
    data = bytearray(b"".join(decoded_chunks(tensor, first=10)))
    assert_same_bits(np.frombuffer(data, BF16), narrow(expected, BF16).ravel()[10:])


def test_tensors_with_other_changes_are_others(stored: dict[str, TensorInfo]) -> None:
    base = stored["weight"]
    product = Product(stored["left"], stored["right"])
    one = replace(base, changes=(product,))
    again = replace(base, changes=(replace(product),))
    copied = stored["left"].path.parent / "copy"
    copied.write_bytes(stored["left"].path.read_bytes())
    elsewhere = Product(replace(stored["left"], path=copied), replace(stored["right"], path=copied))
    same = [one, again, replace(base, changes=(elsewhere,))]
    others = [
        base,
        replace(base, changes=(replace(product, scale=2.0),)),
        replace(base, changes=(replace(product, left=stored["few"]),)),
        replace(base, changes=(replace(product, right=stored["nan"]),)),
        replace(base, changes=(product, product)),
    ]
    for other in same:
        assert same_form(one, other) and same_bytes(one, other)
    for other in others:
        assert not same_form(one, other) and not same_bytes(one, other)
    prints = [tensor_fingerprint(other, content(other)) for other in (*same, *others)]
    assert len(set(prints[: len(same)])) == 1
    assert len(set(prints)) == 1 + len(others)


def test_the_tensor_that_makes_values_nonfinite(stored: dict[str, TensorInfo]) -> None:
    fine = Product(stored["left"], stored["right"])
    bad = Product(stored["left"], stored["nan"])
    blamed = nonfinite_tensor(replace(stored["weight"], changes=(fine, bad)), LIMITS)
    assert blamed == (stored["nan"], 1000, 0)
    tensor = replace(stored["weight"], changes=(fine,))
    assert nonfinite_tensor(tensor, LIMITS) == (tensor, 0, 0)
    broken = replace(stored["nan"], shape=(5, 200), changes=(Added(stored["right"]),))
    assert nonfinite_tensor(broken, LIMITS) == (stored["nan"], 1000, 0)
    too_large = replace(stored["weight"], changes=(Added(stored["difference"], 3e38),) * 2)
    blamed = nonfinite_tensor(too_large, LIMITS)
    once = replace(too_large, changes=too_large.changes[:1])
    assert blamed == (once, *find_nonfinite(once, LIMITS)) and blamed[1] > 0
    assert objection(*blamed) == (
        f"{stored['difference'].path}: tensor 'difference', all finite, makes 'weight' in "
        f"{stored['weight'].path} too large for float32: {blamed[1]} NaN or infinite values, the "
        f"first at element {blamed[2]}, expected finite ones; repair the adapter, or pass "
        "--nonfinite propagate"
    )


def test_norms_of_rows_of_zeros(tmp_path: Path) -> None:
    zero = np.ones((3, 4), np.float32)
    zero[1] = 0
    saved = write(tmp_path / "m", {"w": zero, "n": np.ones(3, np.float32)})
    found = Checkpoint.open(saved).tensors
    norms = replace(found["w"], changes=(Magnitudes(found["n"], 4),))
    assert objection(*nonfinite_tensor(norms, LIMITS), way_out=None) == (
        f"{found['n'].path}: tensor 'n' (DoRA) sets the norm of each row of 'w' in "
        f"{found['w'].path}, of which one is too small: 4 NaN or infinite values, the first at "
        "element 4, expected finite ones"
    )


def test_a_tensor_of_an_adapter_is_named_as_in_its_file(stored: dict[str, TensorInfo]) -> None:
    saved = replace(stored["nan"], name="norm.weight", stored_as="modules_to_save.norm")
    words = objection(*nonfinite_tensor(saved, LIMITS))
    assert f"{stored['nan'].path}: tensor 'modules_to_save.norm' has 1000 NaN" in words
    assert "repair the adapter, or" in words


def test_factors_that_threads_keep(stored: dict[str, TensorInfo]) -> None:
    weight = stored["weight"]
    assert kept_bytes(weight) == 0
    expected = {
        "product": 5 * 200 * 2,
        "stack": 3 * 200 * 2,
        "hadamard": 5 * 200 * 2 + 5 * 200 * 4,
        "kronecker": 4 * (48 + 200),
        "column norms": 5 * 200 * 2 + 4 * 200,
        "difference": 0,
    }
    for name, n_bytes in expected.items():
        assert kept_bytes(replace(weight, changes=case(name, stored)[0])) == n_bytes
