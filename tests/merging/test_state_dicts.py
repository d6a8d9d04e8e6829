"""Merging of state dicts against the reference, bit for bit, and everything that is refused."""

from __future__ import annotations

import doctest
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError, merge_state_dicts
from tallies.merging import state_dicts
from tests.reference.linear import linear
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support import strategies
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.strategies import DTYPES, Models

Array = npt.NDArray[Any]
Dict = dict[str, Array]

BF16 = ml_dtypes.bfloat16


def f16(*values: float) -> npt.NDArray[np.float16]:
    return np.array(values, np.float16)


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Array]) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert_same_bits(actual[name], tensor)


def snapshot(*models: Mapping[str, Array]) -> list[bytes]:
    return [tensor.tobytes() for model in models for tensor in model.values()]


def assert_merges_everywhere(
    expected: Mapping[str, Array], base: Dict | None, experts: Sequence[Dict], **options: Any
) -> None:
    inputs = [*([base] if base is not None else []), *experts]
    before = snapshot(*inputs)
    for merged in on_every_target(
        lambda: merge_state_dicts(base, experts, nonfinite="propagate", **options)
    ).values():
        assert_same(merged, expected)
    assert snapshot(*inputs) == before


@st.composite
def mixed_models(draw: st.DrawFn) -> Models:
    """A base and experts in which every tensor has a dtype of its own."""
    models = draw(strategies.models())
    if draw(st.booleans()):
        return models
    with np.errstate(all="ignore"):
        experts = [
            {name: x.astype(draw(strategies.dtypes())) for name, x in expert.items()}
            for expert in models.experts
        ]
    return Models(models.base, experts)


def threads() -> st.SearchStrategy[int | None]:
    return st.sampled_from([None, 1, 2, 5])


# Against the reference.


@given(mixed_models(), strategies.scales(), threads(), st.data())
def test_ties(models: Models, scale: float, n_threads: int | None, data: st.DataObject) -> None:
    n = len(models.experts)
    weights = data.draw(strategies.weights(n))
    one = strategies.densities()
    density = data.draw(one | st.lists(one, min_size=n, max_size=n))
    options = data.draw(
        st.fixed_dictionaries({"semantics": st.just("mergekit"), "normalize": st.booleans()})
        | st.fixed_dictionaries(
            {
                "scope": st.sampled_from(["model", "tensor"]),
                "equal": st.sampled_from(["keep", "first"]),
            }
        )
    )
    expected = ties_model(models.base, models.experts, density, weights, scale, **options)
    assert_merges_everywhere(
        expected,
        models.base,
        models.experts,
        method="ties",
        density=density,
        weights=weights,
        scale=scale,
        threads=n_threads,
        **options,
    )


def weights_cancel(weights: list[float] | None) -> bool:
    """Whether the sum of the weights is too small to divide by."""
    given_ = weights or [1.0]
    return abs(math.fsum(given_)) <= 1e-6 * math.fsum(map(abs, given_))


@given(mixed_models(), strategies.scales(), st.booleans(), threads(), st.data())
def test_task_arithmetic(
    models: Models, scale: float, normalize: bool, n_threads: int | None, data: st.DataObject
) -> None:
    weights = data.draw(strategies.weights(len(models.experts)))
    options: dict[str, Any] = {"weights": weights, "scale": scale, "normalize": normalize}
    options["threads"] = n_threads
    if normalize and weights_cancel(weights) and models.base:
        with pytest.raises(InputError, match="sum to zero"):
            merge_state_dicts(models.base, models.experts, method="task_arithmetic", **options)
        return
    expected = {
        name: task_arithmetic(
            tensor, [x[name] for x in models.experts], weights, scale, normalize=normalize
        )
        for name, tensor in models.base.items()
    }
    semantics = data.draw(st.sampled_from(["paper", "mergekit"]))
    assert_merges_everywhere(
        expected,
        models.base,
        models.experts,
        method="task_arithmetic",
        semantics=semantics,
        **options,
    )


@given(mixed_models(), st.booleans(), threads(), st.data())
def test_linear(
    models: Models, normalize: bool, n_threads: int | None, data: st.DataObject
) -> None:
    every = [models.base, *models.experts]
    weights = data.draw(strategies.weights(len(every)))
    options: dict[str, Any] = {"weights": weights, "normalize": normalize, "threads": n_threads}
    if normalize and weights_cancel(weights) and models.base:
        with pytest.raises(InputError, match="sum to zero"):
            merge_state_dicts(None, every, method="linear", **options)
        return
    expected = {name: linear([x[name] for x in every], weights, normalize) for name in models.base}
    assert_merges_everywhere(expected, None, every, method="linear", **options)


@given(mixed_models(), strategies.scales(), strategies.densities())
def test_every_result_that_is_not_finite_is_refused_and_no_other(
    models: Models, scale: float, density: float
) -> None:
    # With mergekit's semantics a zero vote is settled at once, so that this is exact.
    options: dict[str, Any] = {"scale": scale, "density": density, "semantics": "mergekit"}
    free = merge_state_dicts(models.base, models.experts, nonfinite="propagate", **options)
    with np.errstate(invalid="ignore"):
        finite = all(np.isfinite(tensor.astype(np.float32)).all() for tensor in free.values())
    if finite:
        assert_same(merge_state_dicts(models.base, models.experts, **options), free)
    else:
        with pytest.raises(InputError, match=r"NaN or infinite|overflow"):
            merge_state_dicts(models.base, models.experts, **options)
        with pytest.warns(UserWarning, match=r"NaN or infinite|overflow"):
            warned = merge_state_dicts(models.base, models.experts, nonfinite="warn", **options)
        assert_same(warned, free)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_merges_with_itself_and_the_others(dtype: np.dtype[Any]) -> None:
    x = (np.arange(5000) % 41 - 20).astype(np.float32) / 16
    base = {"w": x.astype(dtype)}
    for other in DTYPES:
        experts = [{"w": (x * 2).astype(other)}, {"w": (1 - x).astype(other)}]
        expected = ties_model(base, experts, 0.4)
        assert_merges_everywhere(expected, base, experts, density=0.4)


# Models that tell the variants of the published methods apart.


def merge_columns(*ys: float, **options: Any) -> float:
    """TIES of one parameter that is 0 in the base, nothing trimmed."""
    experts = [{"w": f32(y)} for y in ys]
    return float(merge_state_dicts({"w": f32(0)}, experts, density=1.0, **options)["w"][0])


def test_a_fifth_of_ten_is_three_or_two() -> None:
    base, expert = {"w": np.zeros(10, np.float32)}, {"w": np.arange(1, 11, dtype=np.float32) / 10}
    for options, kept in (({}, 3), ({"equal": "first"}, 2), ({"semantics": "mergekit"}, 2)):
        merged = merge_state_dicts(base, [expert], density=0.2, **options)  # type: ignore[arg-type]
        assert np.count_nonzero(merged["w"]) == kept


def test_entries_equal_to_the_threshold_all_stay_or_the_first_ones_do() -> None:
    base, expert = {"w": np.zeros(10, np.float32)}, {"w": f32(2, 1, -2, 1, 2, 1, -2, 1, 2, 1)}
    for options, kept in (
        ({}, [0, 2, 4, 6, 8]),
        ({"equal": "first"}, [0, 2, 4]),
        ({"semantics": "mergekit"}, [0, 2, 4]),
    ):
        merged = merge_state_dicts(base, [expert], density=0.3, **options)  # type: ignore[arg-type]
        assert np.flatnonzero(merged["w"]).tolist() == kept


def test_density_is_a_share_never_a_percentage() -> None:
    base, expert = {"w": np.zeros(4, np.float32)}, {"w": f32(1, 2, 3, 4)}
    assert merge_state_dicts(base, [expert], density=1)["w"].tolist() == [1, 2, 3, 4]
    assert merge_state_dicts(base, [expert], density=0)["w"].tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match="density: found 20, expected a finite number from 0 to 1"):
        merge_state_dicts(base, [expert], density=20)


def test_cancellation_takes_the_sign_of_the_majority() -> None:
    base = {"w": np.zeros(4, np.float32)}
    experts = [{"w": f32(1, -3, -3, -3)}, {"w": f32(-1, -3, -3, -3)}]
    assert merge_state_dicts(base, experts, density=1.0)["w"].tolist() == [-1, -3, -3, -3]
    flipped = [{"w": -x["w"]} for x in experts]
    assert merge_state_dicts(base, flipped, density=1.0)["w"].tolist() == [1, 3, 3, 3]
    merged = merge_state_dicts(base, experts, semantics="mergekit")
    assert merged["w"].tolist() == [1, -3, -3, -3]


def test_the_majority_may_come_from_a_later_tensor_or_be_the_tensors_own() -> None:
    base = {"a": np.zeros(1, np.float32), "b": np.zeros(100_000, np.float32)}
    ones = np.ones(100_000, np.float32)
    experts = [{"a": f32(1), "b": ones}, {"a": f32(-1), "b": ones}]
    for n_threads in (1, 4):
        merged = merge_state_dicts(base, experts, density=1.0, threads=n_threads)
        assert merged["a"].tolist() == [1]
    assert merge_state_dicts(base, experts, density=1.0, scope="tensor")["a"].tolist() == [-1]


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_cancellations_guessed_wrong_in_many_stretches_are_settled(scope: str) -> None:
    rng = np.random.default_rng(7)
    base, experts = {}, [{}, {}]  # type: ignore[var-annotated]
    # The first tensors lean to negative, the last and largest one to positive.
    for name, n, positive in (("a", 300_000, 0.4), ("b", 70_001, 0.5), ("c", 500_000, 0.7)):
        signs = np.where(rng.random((2, n)) < positive, np.float32(1), np.float32(-1))
        base[name] = np.zeros(n, np.float32)
        for expert, row in zip(experts, signs, strict=True):
            expert[name] = row
    expected = ties_model(base, experts, 1.0, scope=scope)
    for n_threads in (1, 4):
        assert_merges_everywhere(
            expected, base, experts, density=1.0, scope=scope, threads=n_threads
        )


def test_cancellation_without_a_majority_is_negative() -> None:
    assert merge_columns(1, -1) == -1
    assert merge_columns(1, -1, semantics="mergekit") == 1


def test_weights_multiply_and_only_mergekit_divides_by_them() -> None:
    assert merge_columns(1, 3) == 2
    assert merge_columns(1, 3, normalize=False) == 4
    assert merge_columns(1, 3, weights=[1, 3]) == 5
    assert merge_columns(1, 3, weights=[1, 3], semantics="mergekit") == 2.5
    assert merge_columns(1, 3, weights=[1, 3], semantics="mergekit", normalize=False) == 10


def test_weights_take_part_in_the_election() -> None:
    assert merge_columns(2, -1.5) == 2
    assert merge_columns(2, -1.5, weights=[1, 2]) == -3
    assert merge_columns(2, -1.5, weights=[1, 2], semantics="mergekit") == -1.5


def test_scope_model_wipes_the_small_tensor_and_scope_tensor_halves_both() -> None:
    base = {"a": np.zeros(100, np.float32), "b": np.zeros(100, np.float32)}
    large = np.arange(200, 300, dtype=np.float32)
    expert = {"a": large, "b": np.arange(1, 101, dtype=np.float32) / 128}

    def survivors(**options: Any) -> list[int]:
        merged = merge_state_dicts(base, [expert], density=0.5, **options)
        return [int(np.count_nonzero(merged[name])) for name in ("a", "b")]

    assert survivors() == [100, 1]
    assert survivors(equal="first") == [100, 0]
    assert survivors(scope="tensor") == [51, 51]
    assert survivors(scope="tensor", equal="first") == [50, 50]
    assert survivors(semantics="mergekit") == [50, 50]


# Edge cases.


def test_a_density_below_one_entry_keeps_the_largest_or_nothing() -> None:
    base, expert = {"w": np.zeros(3, np.float32)}, {"w": f32(1, -3, 3)}
    assert merge_state_dicts(base, [expert], density=0.1)["w"].tolist() == [0, -3, 3]
    assert merge_state_dicts(base, [expert], density=0.1, equal="first")["w"].tolist() == [0, 0, 0]
    merged = merge_state_dicts(base, [expert], density=0.1, semantics="mergekit")
    assert merged["w"].tolist() == [0, -3, 0]


def test_an_expert_equal_to_the_base_contributes_nothing() -> None:
    base, expert = {"w": f32(1, 2, 3)}, {"w": f32(1, 4, 9)}
    for method in ("ties", "task_arithmetic"):
        options: dict[str, Any] = {"density": 1.0} if method == "ties" else {}
        merged = merge_state_dicts(base, [base, expert], method=method, **options)
        assert merged["w"].tolist() == [1, 4, 9]
        assert merge_state_dicts(base, [base], method=method)["w"].tolist() == [1, 2, 3]


def test_one_expert_at_full_density_is_the_expert() -> None:
    base, expert = {"w": f32(1, 2, 3)}, {"w": f32(1, -2, 7)}
    for options in ({}, {"semantics": "mergekit"}, {"scope": "tensor"}):
        merged = merge_state_dicts(base, [expert], density=1.0, **options)  # type: ignore[arg-type]
        assert merged["w"].tolist() == [1, -2, 7]


def test_a_threshold_of_zero_loses_nothing() -> None:
    base, expert = {"w": np.zeros(10, np.float32)}, {"w": f32(0, 0, 5, 0, 0, 0, 0, 0, 0, 0)}
    assert merge_state_dicts(base, [expert], density=0.2)["w"].tolist() == expert["w"].tolist()


def test_density_zero_gives_the_base_back_even_from_nan() -> None:
    base, expert = {"w": f32(1, -0.0)}, {"w": f32(np.nan, 5)}
    for options in ({}, {"equal": "first"}, {"semantics": "mergekit"}):
        merged = merge_state_dicts(base, [expert], density=0, **options)  # type: ignore[arg-type]
        assert merged["w"].tolist() == [1, 0]


def test_task_arithmetic_negates_and_linear_averages() -> None:
    base, expert = {"w": f32(1, 2)}, {"w": f32(3, 1)}
    negated = merge_state_dicts(base, [expert], method="task_arithmetic", scale=-1)
    assert negated["w"].tolist() == [-1, 3]
    average = merge_state_dicts(None, [base, expert], method="linear")
    assert average["w"].tolist() == [2, 1.5]
    weighted = merge_state_dicts(None, [base, expert], method="linear", weights=[3, 1])
    assert weighted["w"].tolist() == [1.5, 1.75]


def test_models_without_tensors_merge_to_one() -> None:
    assert merge_state_dicts({}, [{}]) == {}
    only = {"steps": np.array(3)}
    assert_same(merge_state_dicts(only, [only]), only)


def test_a_majority_that_comes_late_is_held_against_overflow_too() -> None:
    base = {"a": f32(3.35e38), "b": np.zeros(2, np.float32)}
    step = f32(3.4e38) - base["a"]
    experts = [{"a": base["a"] + d, "b": np.ones(2, np.float32)} for d in (step, -step)]
    merge: dict[str, Any] = {"density": 1.0, "scale": 3.0}
    assert merge_state_dicts(base, experts, nonfinite="propagate", **merge)["a"].tolist() == [
        np.inf
    ]
    with pytest.raises(InputError, match="tensor 'a': the merged values overflow F32"):
        merge_state_dicts(base, experts, **merge)
    with pytest.warns(UserWarning, match="tensor 'a': the merged values overflow F32"):
        merge_state_dicts(base, experts, nonfinite="warn", **merge)


# What is copied, what is tied, how arrays lie in memory.


def test_integers_and_booleans_are_copied_and_must_be_equal() -> None:
    base: Dict = {"w": f32(0), "steps": np.array([7, 8]), "flag": np.array(True)}
    expert: Dict = {"w": f32(2), "steps": np.array([7, 8]), "flag": np.array(True)}
    merged = merge_state_dicts(base, [expert], density=1.0)
    assert_same(merged, {"w": f32(2), "steps": np.array([7, 8]), "flag": np.array(True)})
    assert not np.shares_memory(merged["steps"], base["steps"])
    other = {**expert, "steps": np.array([7, 9])}
    with pytest.raises(InputError, match=r"expert 1: tensor 'steps' is int64 .*integers='base'"):
        merge_state_dicts(base, [expert, other])
    merged = merge_state_dicts(base, [expert, other], integers="base")
    assert merged["steps"].tolist() == [7, 8]
    with pytest.raises(InputError, match="expert 0: tensor 'steps' is int32, base has int64"):
        merge_state_dicts(base, [{**expert, "steps": np.array([7, 8], np.int32)}])
    with pytest.raises(InputError, match="expert 0: tensor 'steps' is F32, base has int64"):
        merge_state_dicts(base, [{**expert, "steps": f32(7, 8)}])


def test_integers_take_no_part_in_the_ranks() -> None:
    base: Dict = {"a": np.array([1000] * 100), "w": np.zeros(10, np.float32)}
    expert: Dict = {**base, "w": np.arange(1, 11, dtype=np.float32)}
    merged = merge_state_dicts(base, [expert], density=0.2, equal="first")
    assert np.flatnonzero(merged["w"]).tolist() == [8, 9]


def tied(*names: str, values: Sequence[float], **others: Array) -> Dict:
    shared = f32(*values)
    return {**{name: shared for name in names}, **others}


def test_tied_tensors_count_once_and_stay_tied() -> None:
    base = tied("head", "embed", values=[0, 0, 0, 0], w=np.zeros(4, np.float32))
    # The order of the names does not decide which are tied.
    expert = tied("embed", "head", values=[5, 6, 7, 8], w=f32(1, 2, 3, 4))
    merged = merge_state_dicts(base, [expert], density=0.75, equal="first")
    assert list(merged) == ["head", "embed", "w"]
    assert merged["head"] is merged["embed"]
    # int(8 * 0.75) of eight parameters, not int(12 * 0.75) of twelve.
    assert merged["embed"].tolist() == [5, 6, 7, 8]
    assert merged["w"].tolist() == [0, 0, 3, 4]


def test_tensors_tied_in_the_base_alone_are_merged_apart() -> None:
    base = tied("embed", "head", values=[0, 0])
    merged = merge_state_dicts(base, [{"embed": f32(1, 2), "head": f32(3, 4)}], density=1.0)
    assert merged["embed"].tolist() == [1, 2]
    assert merged["head"].tolist() == [3, 4]


def test_an_expert_may_lack_the_alias_of_a_tied_tensor() -> None:
    base = tied("embed", "head", values=[0, 0])
    merged = merge_state_dicts(base, [{"embed": f32(1, 2)}], density=1.0)
    assert merged["head"] is merged["embed"]
    assert merged["head"].tolist() == [1, 2]
    steps = np.array([3])
    base_with_steps: Dict = {"a": steps, "b": steps, "w": f32(0)}
    merged = merge_state_dicts(base_with_steps, [{"a": steps.copy(), "w": f32(1)}], density=1.0)
    assert merged["b"].tolist() == [3]


def test_parts_of_one_buffer_are_not_tied() -> None:
    buffer = f32(0, 0, 0, 0)
    base = {"a": buffer[:2], "b": buffer[2:], "c": buffer[::2], "d": buffer.reshape(2, 2)}
    expert = {name: np.full(x.shape, i + 1, np.float32) for i, (name, x) in enumerate(base.items())}
    merged = merge_state_dicts(base, [expert], density=1.0)
    assert_same(merged, expert)


def strided(x: Array) -> Array:
    return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x


def test_arrays_of_any_layout_merge_alike() -> None:
    rng = np.random.default_rng(0)
    plain = [{"w": rng.standard_normal((12, 35)).astype(np.float32)} for _ in range(3)]
    expected = merge_state_dicts(plain[0], plain[1:], density=0.3)
    layouts = (
        strided,
        np.asfortranarray,
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    )
    for layout in layouts:
        base, *experts = ({"w": layout(model["w"])} for model in plain)
        before = snapshot(base, *experts)
        assert_same(merge_state_dicts(base, experts, density=0.3), expected)
        assert snapshot(base, *experts) == before


def test_tied_tensors_that_are_not_contiguous_are_tied_all_the_same() -> None:
    shared = strided(f32(0, 0))
    moved = strided(f32(3, 4))
    merged = merge_state_dicts(
        {"a": shared, "b": shared[:]}, [{"a": moved, "b": moved[:]}], density=0.5, equal="first"
    )
    assert merged["a"] is merged["b"]
    assert merged["a"].tolist() == [0, 4]


def test_a_square_matrix_and_its_transpose_are_not_tied() -> None:
    square, moved = np.zeros((2, 2), np.float32), f32(1, 2, 3, 4).reshape(2, 2)
    for convert in (np.asarray, torch.from_numpy):
        base, expert = convert(square), convert(moved)
        merged = merge_state_dicts(
            {"a": base, "b": base.T}, [{"a": expert, "b": expert.T}], density=1
        )
        assert merged["a"].tolist() == [[1, 2], [3, 4]]
        assert merged["b"].tolist() == [[1, 3], [2, 4]]


# Torch.

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def to_torch(x: Array) -> torch.Tensor:
    """The same bits as a tensor that owns its memory."""
    words = torch.from_numpy(x.reshape(-1).view(f"i{x.dtype.itemsize}").copy())
    return words.view(TORCH_DTYPES[x.dtype.name]).reshape(x.shape)


def to_numpy(x: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    assert x.dtype == TORCH_DTYPES[dtype.name]
    words = x.contiguous().reshape(-1).view(INTEGERS[dtype.itemsize])
    return words.numpy().view(dtype).reshape(tuple(x.shape))


def torch_model(model: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: to_torch(tensor) for name, tensor in model.items()}


@given(mixed_models(), strategies.densities(), st.sampled_from(["ties", "task_arithmetic"]))
def test_tensors_merge_to_the_same_bits_as_arrays(
    models: Models, density: float, method: str
) -> None:
    options: dict[str, Any] = {"density": density} if method == "ties" else {}
    expected = merge_state_dicts(
        models.base, models.experts, method=method, nonfinite="propagate", **options
    )
    base, experts = torch_model(models.base), [torch_model(x) for x in models.experts]
    merged = merge_state_dicts(base, experts, method=method, nonfinite="propagate", **options)
    assert list(merged) == list(expected)
    for name, tensor in merged.items():
        assert isinstance(tensor, torch.Tensor)
        assert_same_bits(to_numpy(tensor, expected[name].dtype), expected[name])
        assert_same_bits(to_numpy(base[name], expected[name].dtype), models.base[name])
    # Kinds may be mixed; the result is of the base's.
    mixed = merge_state_dicts(base, models.experts, method=method, nonfinite="propagate", **options)
    for name, tensor in mixed.items():
        assert_same_bits(to_numpy(tensor, expected[name].dtype), expected[name])
    mixed = merge_state_dicts(models.base, experts, method=method, nonfinite="propagate", **options)
    assert_same(mixed, expected)


def test_the_state_dict_of_a_module_merges_and_loads() -> None:
    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        made = torch.nn.Sequential(torch.nn.Embedding(7, 5), torch.nn.BatchNorm1d(5))
        head = torch.nn.Linear(5, 7, bias=False)
        head.weight = made[0].weight  # type: ignore[assignment]
        return made.append(head)

    base, *experts = (module(seed).state_dict() for seed in range(3))
    merged = merge_state_dicts(base, experts, density=0.5)
    assert merged["0.weight"] is merged["2.weight"]
    assert merged["0.weight"].data_ptr() != base["0.weight"].data_ptr()
    assert merged["1.num_batches_tracked"].dtype == torch.int64
    assert not any(tensor.requires_grad for tensor in merged.values())
    target = module(9)
    target.load_state_dict(merged)
    assert torch.equal(target.state_dict()["2.weight"], merged["0.weight"])


def test_parameters_and_strided_tensors_merge_like_plain_ones() -> None:
    torch.manual_seed(0)
    base, *experts = ({"w": torch.randn(6, 9)} for _ in range(3))
    expected = merge_state_dicts(base, experts, density=0.4)["w"]
    transposed = {"w": base["w"].t().contiguous().t()}
    as_parameters = [{"w": torch.nn.Parameter(x["w"])} for x in experts]
    merged = merge_state_dicts(transposed, as_parameters, density=0.4)["w"]
    assert torch.equal(merged, expected)
    assert merged.is_contiguous()
    shared = transposed["w"]
    both = merge_state_dicts({"a": shared, "b": shared}, [{"a": shared, "b": shared}])
    assert both["a"] is both["b"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, device="meta"), "tensor 'w': found a meta tensor, expected a dense tensor"),
        (torch.eye(2).to_sparse(), "tensor 'w': found layout torch.sparse_coo, expected a dense"),
        (
            torch.ones(2, dtype=torch.complex64),
            "tensor 'w': found dtype complex64, expected an int",
        ),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_that_cannot_merge(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_state_dicts({"w": tensor}, [{"w": tensor}])


# What is refused.

W = {"w": f32(1, 2)}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"experts": [{}]}, "expert 0: lacks tensor 'w', which base has"),
    (
        {"base": {"v": f32(1), "w": f32(1), "x": f32(1)}, "experts": [{"x": f32(1)}]},
        "expert 0: lacks tensor 'v' and 1 more, which base has",
    ),
    ({"experts": [W, {**W, "v": f32(1)}]}, "expert 1: has tensor 'v', which base lacks"),
    ({"experts": [{"w": f32(1, 2, 3)}]}, r"expert 0: tensor 'w' has shape \[3\], base has \[2\]"),
    ({"experts": [{"w": np.array([1, 2])}]}, "expert 0: tensor 'w' is int64, base has F32"),
    ({"experts": [{"w": [1.0, 2.0]}]}, "tensor 'w': found list, expected a numpy array or torch"),
    ({"experts": [{"w": np.array([1, 2], ">f4")}]}, "tensor 'w': dtype >f4, expected a native one"),
    ({"experts": [{"w": np.array(["a", "b"])}]}, "tensor 'w': found dtype str32, expected an int"),
    ({"experts": [{"w": np.ones(2, complex)}]}, "tensor 'w': found dtype complex128, expected an"),
    ({"experts": []}, "experts: found none, expected at least one state dict"),
    ({"experts": [f32(1, 2)]}, "expert 0: found ndarray, expected a dict of tensors"),
    ({"experts": W}, "expert 0: found str, expected a dict of tensors"),
    ({"base": None}, "base: missing, and ties needs the model the experts were tuned from"),
    ({"method": "tise"}, "merge method 'tise' is not known; did you mean 'ties'"),
    ({"semantics": "merge-kit"}, "semantics 'merge-kit' .* did you mean 'mergekit'"),
    ({"nonfinite": "ignore"}, r"nonfinite 'ignore' is not known .*error, warn, propagate"),
    ({"desnity": 0.5}, "desnity: parameter of ties 'desnity' .* did you mean 'density'"),
    ({"density": 1.5}, "density: found 1.5, expected a finite number from 0 to 1"),
    ({"density": np.nan}, "density: found nan, expected a finite number from 0 to 1"),
    ({"density": [0.5]}, "density: found 1 values, expected one for each of the 2 experts"),
    ({"scale": np.inf}, "scale: found inf, expected a finite number"),
    ({"scope": "row"}, "scope: 'row' is not known .*model, tensor"),
    ({"equal": "fist"}, "equal: 'fist' .* did you mean 'first'"),
    ({"semantics": "mergekit", "scope": "model"}, "scope: ties has it only in paper semantics"),
    ({"weights": [1, np.nan]}, "expert 1: weight: found nan, expected a finite number"),
    ({"weights": [1, 2, 3]}, "weight: found 3 values, expected one for each of the 2 experts"),
    ({"weights": 0.5}, "weight: found 1 values, expected one for each of the 2 experts"),
    ({"weights": [1, 2], "weight": 2}, "weights: given as 'weight' as well; keep one"),
    ({"threads": 0}, "threads: found 0, expected a number from 1 to 1024"),
    ({"threads": 2.0}, "threads: found 2.0, expected a number from 1 to 1024"),
    ({"integers": "bsae"}, "integers: 'bsae' .* did you mean 'base'"),
    ({"experts": [W] * 257}, "at most 256 experts in one merge, found 257"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[text[:30] for _, text in REFUSED])
def test_requests_are_refused_on_one_line(call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        merge_state_dicts(**{"base": W, "experts": [W, W], **call})
    assert "\n" not in str(refusal.value)


def test_weights_that_cancel_are_refused_where_they_divide() -> None:
    with pytest.raises(
        InputError, match=r"linear: tensor 'w': the weights \(1.0, -1.0\) sum to ze"
    ):
        merge_state_dicts(None, [W, W], method="linear", weights=[1, -1])
    merged = merge_state_dicts(None, [W, W], method="linear", weights=[1, -1], normalize=False)
    assert merged["w"].tolist() == [0, 0]


def with_nonfinite(*places: int, value: float = np.nan) -> tuple[Dict, list[Dict]]:
    base = {"a": f32(1, 2, 3), "b": np.zeros((300, 300), np.float32)}
    bad = np.ones(90_000, np.float32)
    bad[list(places)] = value
    return base, [
        {"a": f32(1, 2, 4), "b": base["b"]},
        {"a": f32(1, 2, 3), "b": bad.reshape(300, 300)},
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "options", [{}, {"method": "task_arithmetic"}, {"scope": "tensor"}], ids=str
)
def test_a_value_that_is_not_finite_names_its_tensor_count_and_place(
    value: float, options: dict[str, Any]
) -> None:
    base, experts = with_nonfinite(70_001, 80_000, 123, value=value)
    message = "^expert 1: tensor 'b' has 3 NaN or infinite values, the first at element 123; "
    for n_threads in (1, 4):
        with pytest.raises(InputError, match=message):
            merge_state_dicts(base, experts, threads=n_threads, **options)
    with pytest.raises(InputError, match=r"^base: tensor 'b' has 3 NaN or infinite values"):
        merge_state_dicts(experts[1], [base], **options)
    free = merge_state_dicts(base, experts, nonfinite="propagate", **options)
    assert np.flatnonzero(~np.isfinite(free["b"])).tolist() == [123, 70_001, 80_000]
    with pytest.warns(UserWarning, match=message) as caught:
        warned = merge_state_dicts(base, experts, nonfinite="warn", **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_same(warned, free)


def test_an_overflow_of_finite_values_says_so() -> None:
    base, expert = {"w": f16(60000, 1)}, {"w": f16(65000, 1)}
    with pytest.raises(
        InputError, match="tensor 'w': the merged values overflow F16; lower the sc"
    ):
        merge_state_dicts(base, [expert], method="task_arithmetic", scale=2)
    merged = merge_state_dicts(base, [expert], method="task_arithmetic", scale=1.1)
    assert merged["w"].tolist() == [65504, 1]


def test_a_merge_of_finite_values_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_state_dicts(W, [W], nonfinite="warn")


def test_examples() -> None:
    failed, attempted = doctest.testmod(state_dicts)
    assert failed == 0
    assert attempted >= 4
