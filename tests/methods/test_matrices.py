"""Methods of whole matrices: against plain formulas in float64, on degenerate input, and by law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tallies import InputError, merge, merge_state_dicts, methods, plan
from tallies.linalg import inverse_root, spectral
from tallies.methods._matrix import MatrixMethod
from tallies.methods.iso_cts import ranks
from tests.reference import matrices as reference
from tests.reference.select import keep
from tests.support.checkpoints import data_bytes, read, write

Array = npt.NDArray[np.float32]

MATRIX_METHODS = [name for name in methods.names() if issubclass(methods.get(name), MatrixMethod)]

BOUND = 2.0**-17
"""Frobenius norm of the error over that of the result: what the methods are held to."""


@st.composite
def task_matrices(draw: st.DrawFn, max_experts: int = 4) -> Array:
    """Task vectors of one matrix: smooth, of low rank, integers, empty rows, zeros, multiples."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, n = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    found: list[npt.NDArray[np.float64]] = []
    for _ in range(draw(st.integers(1, max_experts))):
        kind = draw(st.sampled_from(["smooth", "low", "integers", "rows", "zero", "copy"]))
        x = rng.standard_normal((m, n)) * draw(st.sampled_from([1.0, 1e-3, 30.0]))
        if kind == "low":
            rank = draw(st.integers(1, 3))
            x = rng.integers(-3, 4, (m, rank)) @ rng.integers(-3, 4, (rank, n)) / 8
        elif kind == "integers":
            x = rng.integers(-3, 4, (m, n)) / 4
        elif kind == "rows":
            x[rng.random(m) < 0.7] = 0
        elif kind == "zero":
            x[:] = 0
        elif kind == "copy" and found:
            x = found[-1] * draw(st.sampled_from([1.0, -1.0, 2.0]))
        found.append(x)
    return np.stack(found).astype(np.float32)


def merged(deltas: Array, method: str, **parameters: Any) -> npt.NDArray[np.float64]:
    """The merged task vector, by way of a base of zeros."""
    base = {"w": np.zeros(deltas.shape[1:], np.float32)}
    experts = [{"w": x} for x in deltas]
    found: Array = merge_state_dicts(base, experts, method=method, **parameters)["w"]
    return found.astype(np.float64)


def assert_near(
    found: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    bound: float = BOUND,
    deltas: npt.NDArray[Any] | None = None,
) -> None:
    """The error is at most ``bound`` of the result, or of what 2^-20 of the ``deltas`` is.

    Where task vectors cancel, the result is what float64 leaves of them.
    """
    error, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
    size = max(size, 0 if deltas is None else 2.0**-20 * np.linalg.norm(deltas))
    assert error <= bound * size, f"error {error:g} of {size:g}"


def is_cut_clearly(x: npt.NDArray[Any], k: int) -> bool:
    """Whether there is no doubt which are the k largest singular values, and which are zero."""
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    clear = k >= s.size or k == 0 or s[k - 1] - s[k] > 1e-2 * s[0] or s[k - 1] < 1e-9 * s[0]
    return bool(clear) and has_clear_rank(x)


def has_clear_rank(x: npt.NDArray[Any]) -> bool:
    """Whether every singular value is zero in float64 or well above the rank's limit."""
    if not x.size:
        return True
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    return not ((s > 1e-12 * s[0]) & (s < 1e-4 * s[0])).any()


# The algebra.


@given(task_matrices(max_experts=1))
def test_the_singular_values_are_those_of_a_plain_decomposition(deltas: Array) -> None:
    x = deltas[0]
    u, s, v = spectral.thin_svd(torch.from_numpy(x))
    expected = reference.svd(x.astype(np.float64))[1]
    assume(has_clear_rank(x))
    assert len(s) == len(expected)
    assert np.allclose(s.numpy(), expected, rtol=1e-9, atol=0)
    assert torch.allclose(u.T @ u, torch.eye(len(s), dtype=u.dtype), atol=1e-8)
    assert torch.allclose(v @ v.T, torch.eye(len(s), dtype=u.dtype), atol=1e-8)
    assert_near(((u * s) @ v).numpy(), x, 2.0**-22)


@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-5, 3e-7])
@pytest.mark.parametrize("shape", [(80, 30), (30, 80), (40, 40)])
def test_small_singular_values_keep_their_accuracy(shape: tuple[int, int], smallest: float) -> None:
    rng = np.random.default_rng(0)
    r = min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((n, r)))[0] for n in shape)
    s = np.geomspace(1, smallest, r)
    factor, total = spectral.polar(torch.from_numpy((u * s) @ v.T))
    found = spectral.thin_svd(torch.from_numpy((u * s) @ v.T))[1]
    assert np.allclose(found.numpy(), s, rtol=1e-7, atol=0)
    assert np.isclose(total, s.sum(), rtol=1e-7, atol=0)
    assert_near(factor.numpy(), u @ v.T, 1e-6)


def test_directions_that_are_rounding_alone_count_as_zero() -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((50, 4)) @ rng.standard_normal((4, 60))).astype(np.float64)
    factor, total = spectral.polar(torch.from_numpy(x))
    assert np.isclose(total, np.linalg.svd(x, compute_uv=False)[:4].sum(), rtol=1e-9, atol=0)
    assert torch.linalg.matrix_rank(factor) == 4
    factor, total = spectral.polar(torch.zeros(7, 5))
    assert total == 0 and not factor.any()


def with_spectrum(shape: tuple[int, int], s: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(s))))[0] for n in shape)
    return ((u * s) @ v.T).astype(np.float32)


@pytest.mark.parametrize("unit", [1.0, 1e-18, 1e18])
@pytest.mark.parametrize("largest", [1.0, 3.0, 7.5, 9.0, 1e3])
@pytest.mark.parametrize("shape", [(150, 70), (70, 150), (90, 70)])
def test_the_polar_factor_by_shifted_inverses_or_not(
    shape: tuple[int, int], largest: float, unit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "_SHIFTED", 1)
    x = with_spectrum(shape, np.geomspace(1, largest, 70) * unit)
    factor, total = spectral.polar(torch.from_numpy(x))
    u, s, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    assert_near(factor.numpy(), u @ v, 2.0**-19)
    assert np.isclose(total, s.sum(), rtol=1e-6, atol=0)


@given(st.floats(1e-6, 1e6), st.floats(1, 100))
def test_shifts_and_weights_give_the_inverse_root(low: float, condition: float) -> None:
    found = inverse_root.terms(low, low * condition)
    for x in np.geomspace(low, low * condition, 333):
        assert abs(sum(w / (s + x) for s, w in found) * np.sqrt(x) - 1) < 2.0**-20


@pytest.mark.parametrize("n", [5, 64, 130])
def test_an_inverse_root_is_one_or_is_not_given(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse_root, "_SPLIT", 16)
    q = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))[0]

    def of(values: npt.NDArray[Any]) -> torch.Tensor | None:
        return inverse_root.inverse_root(torch.from_numpy((q * values) @ q.T))

    for condition in (1.0, 4.0, 60.0):
        values = np.geomspace(1, condition, n)
        root = of(values)
        assert root is not None
        assert_near(root.numpy(), (q / np.sqrt(values)) @ q.T, 2.0**-19)
    assert of(np.geomspace(1, 200, n)) is None
    assert of(np.linspace(-0.01, 1, n)) is None
    assert of(np.zeros(n)) is None


def test_a_direction_that_the_estimate_misses_is_found_by_trying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inverse_root, "_extremes", lambda g: (0.9, 1.1))
    for smallest in (0.1, 0.01, 1e-4):
        diagonal = torch.ones(300, dtype=torch.float64)
        diagonal[7] = smallest
        assert inverse_root.inverse_root(torch.diag(diagonal)) is None


def test_long_matrices_go_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((37, 9)))
    whole = spectral.thin_svd(x)
    monkeypatch.setattr(spectral, "_BLOCK", 40)
    monkeypatch.setattr(spectral, "_PANEL", 4)
    for one, other in zip(whole, spectral.thin_svd(x), strict=True):
        assert torch.allclose(one.abs(), other.abs(), atol=1e-12)


# The methods against the plain formulas.


@given(task_matrices())
def test_iso_c(deltas: Array) -> None:
    assume(has_clear_rank(reference.float32_sum(deltas)))
    assert_near(merged(deltas, "iso_c"), reference.iso_c(deltas))


@given(task_matrices(), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_iso_cts(deltas: Array, fraction: float) -> None:
    r = min(deltas.shape[1:])
    k, d = reference.iso_cts_ranks(r, fraction, len(deltas))
    total = reference.float32_sum(deltas)
    assume(is_cut_clearly(total, k))
    u, s, v = (part[..., :k] if i < 2 else part[:k] for i, part in enumerate(reference.svd(total)))
    parts = []
    for x in deltas.astype(np.float64) if d else []:
        rest = x - u @ (u.T @ x)
        assume(np.linalg.norm(rest) < 1e-12 or is_cut_clearly(rest, d))
        parts.append(reference.svd(rest, reference.EPSILON * float(np.linalg.norm(x))))
    parts.append((u, s, v))
    assume(has_clear_rank(np.concatenate([part[0][:, :r] for part in parts], 1)))
    found = merged(deltas, "iso_cts", common_space_fraction=fraction)
    assert_near(found, reference.iso_cts(deltas, fraction))


@given(task_matrices())
def test_tsv_m(deltas: Array) -> None:
    k = min(deltas.shape[1:]) // len(deltas)
    assume(all(is_cut_clearly(x, k) for x in deltas))
    parts = [reference.svd(x.astype(np.float64)) for x in deltas]
    for side in (
        np.concatenate([u[:, :k] for u, _, _ in parts], 1),
        np.concatenate([v[:k] for _, _, v in parts]),
    ):
        assume(has_clear_rank(side))
    assert_near(merged(deltas, "tsv_m"), reference.tsv_m(deltas), deltas=deltas)


@given(task_matrices(), st.sampled_from([0.0, 40.0, 73.0, 100.0]))
def test_star(deltas: Array, eta: float) -> None:
    for x in deltas:
        assume(has_clear_rank(x))
        s = reference.svd(x.astype(np.float64))[1]
        share = np.cumsum(s) / s.sum() if s.size else np.zeros(0)
        assume(eta in (0, 100) or (np.abs(share - eta / 100) > 1e-9).all())
        n = int((share < eta / 100 - 1e-9).sum()) + 1
        assume(eta == 100 or is_cut_clearly(x, n))
    assert_near(merged(deltas, "star", eta=eta), reference.star(deltas, eta), deltas=deltas)


WUDI = {
    "vision": ({"variant": "vision"}, 1, 1e-5),
    "language": ({"variant": "language"}, 2, 2e-5),
    "fusionbench": ({"semantics": "fusionbench"}, 2, 1e-5),
}


@pytest.mark.parametrize("variant", WUDI)
@given(deltas=task_matrices())
def test_wudi(variant: str, deltas: Array) -> None:
    options, power, rate = WUDI[variant]
    found = merged(deltas, "wudi", steps=12, **options)
    expected = reference.wudi(deltas, power, rate, 12)
    # Where a gradient is rounding alone, Adam goes anywhere, but no further than rate a step.
    slopes = np.abs(reference.wudi_gradient(deltas, expected, power))
    sizes = np.abs(expected) @ sum(np.abs(x.T) @ np.abs(x) for x in deltas.astype(np.float64))
    norms = [np.linalg.norm(x) ** power for x in deltas if x.any()] or [1.0]
    clear = slopes > 1e-3 * (sizes / min(norms) + 1)
    assert (np.abs(found - expected) <= 2.1 * 12 * rate + BOUND * np.abs(expected).max()).all()
    error = np.abs(found - expected)[clear]
    assert (error <= BOUND * np.abs(expected).max() + 0.01 * rate).all()


@given(task_matrices(), st.sampled_from(["vision", "language"]))
def test_the_closed_form_of_wudi_is_where_the_gradient_is_zero(deltas: Array, variant: str) -> None:
    power = WUDI[variant][1]
    found = merged(deltas, "wudi", variant=variant, solver="closed_form")
    xs = [x for x in deltas.astype(np.float64) if x.any()]
    grams = sum(
        (x.T @ x / np.linalg.norm(x) ** power for x in xs), np.zeros((deltas.shape[2],) * 2)
    )
    assume(has_clear_rank(grams))
    assert_near(found, reference.wudi_minimum(deltas, power), deltas=deltas)
    size = max(np.linalg.norm(found), 2.0**-20 * np.linalg.norm(deltas))
    scale = np.linalg.norm(grams) * size
    assert np.linalg.norm(reference.wudi_gradient(deltas, found, power)) <= 1e-6 * scale


def test_the_published_wudi_stops_before_the_minimum() -> None:
    deltas = np.random.default_rng(0).standard_normal((3, 12, 10)).astype(np.float32)
    minimum = reference.wudi_minimum(deltas, 1)
    assert np.linalg.norm(reference.wudi_gradient(deltas, minimum, 1)) < 1e-12
    found = merged(deltas, "wudi")
    assert np.linalg.norm(reference.wudi_gradient(deltas, found, 1)) > 1
    assert_near(found, reference.wudi(deltas, 1, 1e-5, 300))


@given(task_matrices(), st.sampled_from([0.3, 1.0]))
def test_doge(deltas: Array, density: float) -> None:
    r = min(deltas.shape[1:])
    bases = []
    for x in deltas:
        assume(is_cut_clearly(x, r // len(deltas)))
        if x.any():
            bases.append(reference.svd(x.astype(np.float64))[0][:, : r // len(deltas)])
    stacked = np.concatenate(bases, 1) if bases else np.zeros((1, 0))
    assume(not stacked.size or is_cut_clearly(stacked, r // 6))
    kept = np.stack([keep(x, density) for x in deltas]).reshape(deltas.shape)
    found = merged(deltas, "doge", density=density, steps=12)
    expected = reference.doge(deltas, kept, steps=12)
    # The correction's own path is as long as 12 steps; its direction may be rounding alone.
    total = sum(0.07 / np.linalg.norm(x) for x in deltas if x.any())
    assert (np.abs(found - expected) <= 2.1 * 12 * 1e-4 * total + BOUND * 0.07).all()


def test_doge_follows_the_published_path() -> None:
    deltas = np.random.default_rng(1).standard_normal((3, 24, 18)).astype(np.float32) / 8
    kept = np.stack([keep(x, 0.3) for x in deltas]).reshape(deltas.shape)
    found = merged(deltas, "doge")
    assert_near(found, reference.doge(deltas, kept))
    uncorrected = reference.doge(deltas, kept, steps=0)
    assert np.linalg.norm(found - uncorrected) > 0.05 * np.linalg.norm(uncorrected)


def test_doge_ranks_the_matrices_together_and_no_other_tensor() -> None:
    base = {"a": np.zeros((2, 2)), "b": np.zeros((2, 2)), "c": np.zeros(4)}
    base = {name: x.astype(np.float32) for name, x in base.items()}
    expert = {
        "a": np.float32([[1, 2], [3, 4]]),
        "b": np.float32([[5, 6], [7, 8]]),
        "c": np.float32([9, 9, 9, 9]),
    }
    found = merge_state_dicts(base, [expert], method="doge", density=0.5, steps=0)
    # k + 1 = 5 of 8 entries reach the threshold, all but one of them in b.
    assert np.count_nonzero(found["a"]) == 1 and np.count_nonzero(found["b"]) == 4
    assert not found["c"].any()


def test_counts_of_directions() -> None:
    assert ranks(768, 0.8, 8) == (616, 19)
    assert ranks(768, 0.8, 2) == (614, 77)
    # Half to even: 2.5 is 2; and never more than there are.
    assert ranks(10, 0.0, 4) == (2, 2)
    assert ranks(5, 0.0, 8) == (5, 0)
    assert ranks(4, 1.0, 3) == (4, 0)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (1, 6), (6, 1), (1, 1)])
def test_tsv_m_gives_one_expert_back(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(3).standard_normal((1, *shape)).astype(np.float32)
    assert_near(merged(x, "tsv_m"), x[0], 2.0**-22)


def test_tsv_m_of_more_experts_than_directions_is_the_base() -> None:
    x = np.random.default_rng(4).standard_normal((4, 3, 8)).astype(np.float32)
    assert not merged(x, "tsv_m").any()


# All of them.


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_experts_that_are_the_base_give_the_base(name: str) -> None:
    assert not merged(np.zeros((3, 6, 4), np.float32), name).any()


@pytest.mark.parametrize("name", MATRIX_METHODS)
@given(deltas=task_matrices())
def test_degenerate_matrices_give_finite_results(name: str, deltas: Array) -> None:
    options = {"steps": 3} if name in ("wudi", "doge") else {}
    assert np.isfinite(merged(deltas, name, **options)).all()


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_the_order_of_the_experts_changes_rounding_alone(name: str) -> None:
    rng = np.random.default_rng(5)
    deltas = rng.standard_normal((4, 30, 22)).astype(np.float32)
    one, other = merged(deltas, name), merged(deltas[[2, 0, 3, 1]], name)
    assert_near(one, other)


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_weights_multiply_the_task_vectors(name: str) -> None:
    rng = np.random.default_rng(6)
    deltas = rng.standard_normal((3, 8, 5)).astype(np.float32)
    options = {"density": 1.0} if name == "doge" else {}
    weights = np.float32([2, -1, 0.5])
    found = merged(deltas, name, weights=weights.tolist(), **options)
    assert np.array_equal(found, merged(deltas * weights[:, None, None], name, **options))


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_what_is_no_matrix_follows_the_rule_of_the_others(name: str) -> None:
    rng = np.random.default_rng(7)
    shapes = {"w": (6, 4), "head.w": (6, 4), "b": (5,), "s": (), "k": (2, 3, 4), "e": (0, 4)}
    base, one, other = (
        {n: rng.integers(-8, 9, shape).astype(np.float32) for n, shape in shapes.items()}
        for _ in range(3)
    )
    rules = {
        "mean": lambda n: (one[n] + other[n]) / 2,
        "sum": lambda n: one[n] + other[n] - base[n],
        "base": lambda n: base[n],
    }
    choices = methods.get(name).parameters()["others"].choices
    assert choices
    for choice in choices:
        found = merge_state_dicts(
            base, [one, other], method=name, others=choice, exclude="none, head"
        )
        for n in shapes:
            if n != "w":
                assert np.array_equal(found[n], rules[choice](n)), n
        assert not np.array_equal(found["w"], rules[choice]("w"))


@pytest.mark.parametrize("name", MATRIX_METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_an_error_or_spreads(name: str, value: float) -> None:
    rng = np.random.default_rng(8)
    base, *experts = ({"w": rng.standard_normal((4, 3)).astype(np.float32)} for _ in range(3))
    experts[1]["w"][2, 1] = value
    with pytest.raises(InputError, match="expert 1: tensor 'w' has 1 NaN or infinite values"):
        merge_state_dicts(base, experts, method=name)
    found = merge_state_dicts(base, experts, method=name, nonfinite="propagate")
    assert np.isnan(found["w"]).all()


@pytest.mark.parametrize("name", ["iso_c", "iso_cts"])
def test_a_sum_that_overflows_is_an_error(name: str) -> None:
    base = {"w": np.zeros((2, 2), np.float32)}
    expert = {"w": np.full((2, 2), 3e38, np.float32)}
    with pytest.raises(InputError, match="merged values overflow"):
        merge_state_dicts(base, [expert, expert], method=name)


# On disk.


def models(root: Path, n_experts: int = 3) -> tuple[dict[str, Any], dict[str, Array], list[Any]]:
    rng = np.random.default_rng(9)
    shapes = {f"layer.{i}.w": (20 + i, 31) for i in range(6)} | {"norm": (31,)}
    base, *experts = (
        {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
        for _ in range(n_experts + 1)
    )
    paths = [write(root / f"m{i}", one) for i, one in enumerate([base, *experts])]
    recipe = {
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
    }
    return recipe, base, experts


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_files_and_arrays_merge_to_the_same_bits_on_any_number_of_threads(
    tmp_path: Path, name: str
) -> None:
    recipe, base, experts = models(tmp_path)
    expected = merge_state_dicts(base, experts, method=name, threads=1)
    results = []
    for threads, memory in ((1, "1GiB"), (3, "1GiB"), (3, "90MiB")):
        out = tmp_path / f"{threads}-{memory}"
        report = merge(
            {"merge_method": name, **recipe},
            out,
            threads=threads,
            max_memory=memory,
            max_shard_size="6KB",
        )
        assert report.tensors_merged == 7
        results.append(data_bytes(out))
    found = read(out)
    assert all(found[n].tobytes() == expected[n].tobytes() for n in expected)
    assert results == [results[0]] * 3


def test_the_threads_of_torch_are_left_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    _, base, experts = models(tmp_path)
    merge_state_dicts(base, experts, method="iso_c", threads=3)
    assert torch.get_num_threads() == before


def test_a_matrix_beyond_the_budget_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    recipe, _, _ = models(tmp_path)
    recipe["merge_method"] = "tsv_m"
    with pytest.raises(
        InputError, match=r"tsv_m: tensor 'layer.0.w' \[20, 31\] is merged as a whole, .*65 MiB"
    ):
        merge(recipe, tmp_path / "out", max_memory="64MiB")
    assert not (tmp_path / "out").exists()
    recipe["parameters"] = {"exclude": "layer"}
    merge(recipe, tmp_path / "out", max_memory="64MiB")


def test_without_torch_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, base, experts = models(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputError, match=r"star: needs torch .* install torch"):
        merge({"merge_method": "star", **recipe}, tmp_path / "out")
    with pytest.raises(InputError, match=r"star: needs torch .* install torch"):
        merge_state_dicts(base, experts, method="star")


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_the_plan_says_that_matrices_are_whole(tmp_path: Path, name: str) -> None:
    recipe, _, _ = models(tmp_path)
    *survey, last = plan({"merge_method": name, **recipe}).passes()
    assert last == "matrices, one at a time, and combine of the other tensors"
    assert survey == (["survey of all matrices together"] if name == "doge" else [])


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_the_report_knows_what_went_in_and_out(tmp_path: Path, name: str) -> None:
    recipe, _, _ = models(tmp_path)
    moved: list[tuple[int, int]] = []
    report = merge(
        {"merge_method": name, **recipe},
        tmp_path / "out",
        progress=lambda *bytes_moved: moved.append(bytes_moved),
    )
    plain = merge({"merge_method": "task_arithmetic", **recipe}, tmp_path / "plain")
    assert [one.fingerprint for one in report.experts] == [one.fingerprint for one in plain.experts]
    assert report.base is not None and plain.base is not None
    assert report.base.fingerprint == plain.base.fingerprint
    assert moved[-1][0] == moved[-1][1]
