"""DARE, Breadcrumbs and DELLA against the reference, on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, _core, merge, merge_state_dicts
from tallies.engine.codes import KEEP_ALL, rule_codes
from tallies.engine.random_keys import chance
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY
from tallies.spec.rules import Blend, Gate, Rule, Vote
from tests.reference import breadcrumbs, dare, della, random
from tests.reference.blend import disjoint_merge
from tests.reference.dtype import Array, Floats
from tests.reference.elect import elect_signs
from tests.reference.staged import Stage, staged_merge
from tests.reference.sums import entries, in_order_sum
from tests.reference.task_arithmetic import add_to_base, task_vectors
from tests.support import strategies
from tests.support.checkpoints import assert_holds, assert_same_tensors, write
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.strategies import Models, models

ELECTING = {"dare_ties", "breadcrumbs_ties", "della"}
NAMES = ("dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear")


class Case(NamedTuple):
    """One method in one semantics, with the parameters of a merge."""

    method: str
    semantics: str
    densities: list[float]
    others: list[float]
    """Gamma or epsilon of each expert; not those of DARE."""
    rescale: str
    scope: str
    normalize: bool
    scale: float
    weights: list[float] | None
    seed: int
    trim: float = 1.0
    """Of DARE before TIES."""

    @property
    def own(self) -> dict[str, list[float]]:
        """The parameters that each expert has of its own."""
        values = {"density": self.densities}
        if not self.method.startswith("dare"):
            values["gamma" if "breadcrumbs" in self.method else "epsilon"] = self.others
        if self.weights is not None:
            values["weight"] = self.weights
        return values

    @property
    def shared(self) -> dict[str, Any]:
        values = {"rescale": self.rescale, "normalize": self.normalize, "scale": self.scale}
        if "breadcrumbs" in self.method and self.semantics == "paper":
            values["scope"] = self.scope
        if self.trim < 1:
            values["trim_density"] = self.trim
        return values

    def stage(self) -> Stage:
        def change(delta: Floats, expert: int, key: int) -> Floats:
            density, other = self.densities[expert], self.others[expert]
            if self.method.startswith("dare"):
                return dare.drop(delta, density, key, self.rescale)
            if self.method.startswith("della"):
                return della.drop(delta, density, other, key, self.rescale)
            return breadcrumbs.breadcrumbs(
                delta,
                density,
                other,
                scope="tensor" if self.semantics == "mergekit" else self.scope,
                semantics=self.semantics,
                rescale=self.rescale,
            )

        return change

    def expected(self, models: Models) -> dict[str, Array]:
        mean = (
            "mean" if (self.method, self.semantics) == ("dare_ties", "paper") else "weighted_mean"
        )
        majority = self.method == "dare_ties" and self.semantics == "paper"
        return staged_merge(
            *models,
            self.stage(),
            self.weights,
            self.scale,
            seed=self.seed,
            elects=self.method in ELECTING,
            blend=mean if self.normalize else "sum",
            normalize=self.normalize,
            zero="majority" if majority else "positive",
            trim=self.trim,
        )


def sums_to_zero(weights: list[float] | None) -> bool:
    return weights is not None and abs(sum(weights)) <= 1e-6 * sum(map(abs, weights))


@st.composite
def cases(draw: st.DrawFn, n_experts: int) -> Case:
    method = draw(st.sampled_from(NAMES))
    semantics = draw(st.sampled_from(["paper", "mergekit"]))
    weights = draw(strategies.weights(n_experts))
    normalize = draw(st.booleans())
    if method not in ELECTING and normalize and sums_to_zero(weights):
        weights = None
    densities = draw(st.lists(strategies.densities(), min_size=n_experts, max_size=n_experts))
    shares = st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.9])
    others = draw(st.lists(shares, min_size=n_experts, max_size=n_experts))
    if method.startswith("della"):
        others = [0.9 * o * min(d, 1 - d) for o, d in zip(others, densities, strict=True)]
    rescale = draw(
        st.sampled_from(
            ["l1", "none"] if "breadcrumbs" in method else ["probability", "l1", "none"]
        )
    )
    trims = (method, semantics) == ("dare_ties", "paper") and rescale != "l1"
    return Case(
        method=method,
        semantics=semantics,
        densities=densities,
        others=others,
        rescale=rescale,
        scope=draw(st.sampled_from(["row", "tensor"])),
        normalize=normalize,
        scale=draw(strategies.scales()),
        weights=weights,
        seed=draw(st.integers(0, 3)),
        trim=draw(st.sampled_from([1.0, 0.6, 0.2, 0.0])) if trims else 1.0,
    )


@settings(max_examples=80)
@given(models(), st.data())
def test_in_memory(group: Models, data: st.DataObject) -> None:
    case = data.draw(cases(len(group.experts)))
    found = on_every_target(
        lambda: merge_state_dicts(
            *group,
            method=case.method,
            semantics=case.semantics,
            seed=case.seed,
            nonfinite="propagate",
            **case.own,
            **case.shared,
        )
    )
    expected = case.expected(group)
    for result in found.values():
        assert_same_tensors(result, expected)


def assert_merges(
    root: Path, group: Models, case: Case, memory: str, nonfinite: str = "error"
) -> None:
    """Whatever the number of threads and the memory, files merge to what the reference makes."""
    recipe = {
        "merge_method": case.method,
        "semantics": case.semantics,
        "base_model": str(write(root / "base", group.base)),
        "models": [
            {
                "model": str(write(root / f"{i}", expert)),
                "parameters": {name: values[i] for name, values in case.own.items()},
            }
            for i, expert in enumerate(group.experts)
        ],
        "parameters": case.shared,
    }
    expected = case.expected(group)
    for threads, max_memory in ((1, "1GiB"), (3, memory)):
        out = root / f"out-{threads}"
        options: dict[str, Any] = {"threads": threads, "max_memory": max_memory, "seed": case.seed}
        merge(recipe, out, nonfinite=nonfinite, **options)
        assert_holds(out, expected)


@settings(max_examples=30)
@given(group=models(), data=st.data())
def test_on_disk(
    tmp_path_factory: pytest.TempPathFactory, group: Models, data: st.DataObject
) -> None:
    case = data.draw(cases(len(group.experts)))
    assert_merges(tmp_path_factory.mktemp("staged"), group, case, "1KiB", "propagate")


def large(seed: int) -> dict[str, Array]:
    """Tensors of several tiles, in rows of odd lengths, of which many entries are equal.

    One has another type in every model.
    """
    rng = np.random.default_rng(seed)
    types = (np.float16, np.float32, np.float64, np.float16)
    return {
        "long": rng.standard_normal((7, 9001)).astype(np.float32),
        "wide": rng.standard_normal((300, 257)).astype(types[seed]),
        "few": (rng.integers(-4, 5, (63, 1000)) / 8).astype(np.float32),
        "vector": rng.standard_normal(70_001).astype(np.float32),
        # Rows whose brackets miss, and rows whose bins are full.
        "scaled": (rng.standard_normal((99, 300)) * 10.0 ** rng.integers(-9, 9, (99, 1))).astype(
            np.float32
        ),
        "tails": (rng.standard_cauchy((40, 700)) ** 3).astype(np.float32),
        "column": rng.standard_normal((5000, 1)).astype(np.float32),
    }


@pytest.mark.parametrize("rescale", ["l1", "none"])
@pytest.mark.parametrize("method", NAMES)
def test_several_tiles(tmp_path: Path, method: str, rescale: str) -> None:
    group = Models(large(0), [large(1), large(2), large(3)])
    semantics = "paper" if rescale == "none" else "mergekit"
    case = Case(
        method, semantics, [0.3] * 3, [0.1] * 3, rescale, "row", True, 0.7, [1.0, 0.5, 2.0], 4
    )
    assert_merges(tmp_path, group, case, "1MiB")


@pytest.mark.parametrize("trim", [0.05, 0.5])
def test_a_trim_of_what_was_drawn_in_several_tiles(tmp_path: Path, trim: float) -> None:
    group = Models(large(0), [large(1), large(2), large(3)])
    case = Case(
        *("dare_ties", "paper", [0.7, 0.3, 0.9], [0.0] * 3, "probability", "row"),
        *(True, 0.7, None, 4, trim),
    )
    assert_merges(tmp_path, group, case, "1MiB")


def test_a_trim_of_what_was_drawn_of_a_tensor_that_is_read_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    rows = [{"x": rng.standard_normal(30_011).astype(np.float32)} for _ in range(4)]
    group = Models(rows[0], rows[1:])
    case = Case(
        *("dare_ties", "paper", [0.7, 0.3, 0.9], [0.0] * 3, "probability", "row"),
        *(True, 0.7, None, 4, 0.2),
    )
    assert_merges(tmp_path, group, case, "1MiB")


def short(x: Array) -> Floats:
    """Rounded towards zero to 8 significant bits, as many differences of bfloat16 models have."""
    return (np.asarray(x, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


ROWS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "distinct": lambda rng, n: rng.standard_normal(n),
    "short": lambda rng, n: short(rng.standard_normal(n)),
    "a few not short": lambda rng, n: np.where(
        rng.random(n) < 1 / 64, rng.standard_normal(n), short(rng.standard_normal(n))
    ),
    "multiples": lambda rng, n: np.rint(3 * rng.standard_normal(n)) / 512,
    "mostly zeros": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 1 / 16),
    "equal": lambda rng, n: np.full(n, rng.choice([0, 0.5, 1 / 3, np.inf, np.nan])),
    "subnormal": lambda rng, n: rng.standard_normal(n) * 1e-40,
    "almost equal": lambda rng, n: 1 + 1e-5 * rng.standard_normal(n),
    "two scales": lambda rng, n: rng.standard_normal(n) * rng.choice([1e-30, 1e-30, 1e-30, 1], n),
    "any short": lambda rng, n: short(rng.integers(0, 2**32, n, np.uint32).view(np.float32)),
    "any": lambda rng, n: rng.integers(0, 2**32, n, np.uint32).view(np.float32),
}
ODD_ONES = np.array(
    [0, 0x80000000, 1, 0x80000001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000],
    np.uint32,
).view(np.float32)


@st.composite
def matrices(draw: st.DrawFn) -> Floats:
    """Rows that have little in common, with a few entries that have nothing in common with them."""
    n = draw(st.sampled_from([1, 2, 17, 31, 32, 33, 300, 511, 512, 513, 1500, 2048, 3001]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(st.lists(st.sampled_from(sorted(ROWS)), min_size=1, max_size=5))
    x = np.stack([ROWS[kind](rng, n).astype(np.float32) for kind in kinds])
    odd = rng.random(x.shape) < draw(st.sampled_from([0, 0.001, 0.03]))
    return np.where(odd, rng.choice(ODD_ONES, x.shape), x)


@settings(max_examples=100)
@given(matrices(), st.sampled_from(["della_linear", "breadcrumbs"]), st.data())
def test_ranks_of_a_row(x: Floats, method: str, data: st.DataObject) -> None:
    if method == "breadcrumbs":
        density, other = data.draw(st.tuples(strategies.densities(), st.floats(0, 1)))
    else:
        density, other = 0.9, 0.09
    case = Case(method, "paper", [density], [other], "none", "row", False, 1.0, None, 0)
    if method == "della_linear":
        case = case._replace(rescale="probability")
    group = Models({"x": np.zeros_like(x)}, [{"x": x}])
    expected = case.expected(group)
    found = on_every_target(
        lambda: merge_state_dicts(
            *group, method=method, seed=0, nonfinite="propagate", **case.own, **case.shared
        )
    )
    for result in found.values():
        assert_same_tensors(result, expected)


# Examples that tell the variants apart.


def staged(x: object, method: str, *others: object, **options: Any) -> Floats:
    """What the method makes of these task vectors, on a base of zeros."""
    arrays = [np.asarray(values, np.float32) for values in (x, *others)]
    base = {"x": np.zeros_like(arrays[0])}
    experts = [{"x": array} for array in arrays]
    found = merge_state_dicts(base, experts, method=method, **options)["x"]
    return np.asarray(found, np.float32)


def seed_with_survivors(n: int, wanted: int, density: float) -> int:
    """A seed for which so many of the n entries of tensor x of the first expert stay."""
    for seed in range(1000):
        drawn = random.numbers(random.key(seed, 0, "x"), n)
        if (drawn < random.threshold(density)).sum() == wanted:
            return seed
    raise AssertionError


# What is drawn in the blend, by the plan itself.

FACTORS = (1.0, 4 / 3, 0.5)
BLENDS = {
    Blend.SUM_OF_AGREEING: "sum",
    Blend.MEAN_OF_AGREEING: "mean",
    Blend.WEIGHTED_MEAN_OF_AGREEING: "weighted_mean",
    Blend.LARGEST_AGREEING: "max",
}
COMPILED = [
    *((Vote.NONE, blend) for blend in (Blend.SUM, Blend.MEAN)),
    *((vote, blend) for vote in (Vote.SUM, Vote.COUNT) for blend in BLENDS),
    *((vote, Blend.MEAN_OF_AGREEING) for vote in (Vote.UNWEIGHTED_SUM, Vote.UNWEIGHTED_COUNT)),
]
KEYS = (7, 1 << 63, 0xFFFF_FFFF_0000_0001)


def drawn(
    path: Path, first: int, arrays: list[Array], vote: Vote, blend: Blend, weights: list[float]
) -> Array:
    """The merged elements from ``first`` on of a tensor of which files hold only these."""
    plan = _core.Plan(True)
    places = []
    for i, array in enumerate(arrays):
        with open(path / str(i), "wb") as file:
            file.seek(first * array.itemsize)
            file.write(array.tobytes())
        code = DTYPE_CODES[DTYPE_OF_ARRAY[array.dtype.name]]
        places.append((plan.open_to_read(str(path / str(i))), 0, code))
    dtype, out = arrays[0].dtype, path / "out"
    out.unlink(missing_ok=True)
    place = (plan.open_to_write(str(out), 0), 0, places[0][2])
    n = arrays[0].size
    plan.add_job(first + n, places, [place])
    draws = [
        _core.Draw(key=key, chance=chance(0.7), factor=factor)
        for key, factor in zip(KEYS, FACTORS, strict=True)
    ]
    candidate = _core.Candidate(
        weights=weights,
        floors=[KEEP_ALL] * 3,
        cutoffs=[first + n] * 3,
        divisor=3.0,
        zero_sign=1,
    )
    task = _core.CombineTask(
        job=_core.Slice(job=0, first=first, n_elements=n), candidates=[candidate], draws=draws
    )
    gate, voting, blending = rule_codes(Rule(Gate.RANDOM, vote, blend))
    plan.combine(
        tasks=[task], gate=gate, vote=voting, blend=blending, limits=_core.Limits(2, 1 << 16)
    )
    with open(out, "rb") as file:
        file.seek(first * dtype.itemsize)
        return np.frombuffer(file.read(), dtype)


@pytest.mark.parametrize(
    "dtypes", [("float32",) * 4, ("bfloat16",) * 4, ("float16", "float64") * 2]
)
@pytest.mark.parametrize("weights", [[1.0, 0.5, 2.0], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize(("vote", "blend"), COMPILED)
def test_every_blend_of_what_is_drawn(
    tmp_path: Path, vote: Vote, blend: Blend, weights: list[float], dtypes: tuple[str, ...]
) -> None:
    """Across element 2^32, where the random numbers begin anew with another key."""
    first, n = (1 << 32) - 512, 1211
    rng = np.random.default_rng(3)
    arrays = [(rng.integers(-8, 8, n) / 4).astype(dtype) for dtype in dtypes]
    arrays[2][5] = np.nan
    deltas = task_vectors(arrays[0], arrays[1:])
    for delta, key, factor in zip(deltas, KEYS, FACTORS, strict=True):
        stays = (random.numbers(key, n, first) < chance(0.7)) | np.isnan(delta)
        delta[:] = np.where(stays, delta * np.float32(factor), np.float32(0))
    if vote is Vote.NONE:
        merged = in_order_sum(entries(deltas, weights)) / np.float32(
            3 if blend is Blend.MEAN else 1
        )
    else:
        voices = None if vote.value.startswith("unweighted") else weights
        signs = elect_signs(deltas, voices, vote.value.removeprefix("unweighted_"), "positive")
        merged = disjoint_merge(deltas, signs, weights, BLENDS[blend])
    expected = add_to_base(arrays[0], 1.0, merged)
    assert np.isnan(expected[5].astype(np.float32))
    for found in on_every_target(
        lambda: drawn(tmp_path, first, arrays, vote, blend, weights)
    ).values():
        assert_same_bits(found, expected)


def test_rescaling_by_probability_and_by_l1() -> None:
    seed = seed_with_survivors(4, 1, 0.5)
    options: dict[str, Any] = {"density": 0.5, "seed": seed}
    for semantics, survivor in (("paper", 2), ("peft", 2), ("mergekit", 4)):
        found = staged(np.ones(4), "dare_linear", semantics=semantics, **options)
        assert sorted(found) == [0, 0, 0, survivor], semantics
    assert sorted(staged(np.ones(4), "dare_linear", rescale="none", **options)) == [0, 0, 0, 1]


def test_what_agrees_is_averaged_or_summed() -> None:
    assert staged([1], "dare_ties", [3], density=1)[0] == 2
    assert staged([1], "dare_ties", [3], density=1, semantics="mergekit")[0] == 4
    assert staged([1], "dare_ties", [3], density=1, semantics="mergekit", normalize=True)[0] == 2
    assert staged([1], "dare_ties", [3], density=1, semantics="peft")[0] == 2


def test_dare_ties_as_peft_elects_before_the_weights() -> None:
    rng, weights = np.random.default_rng(5), [1.0, 0.5, -2.0]
    rows = rng.integers(-3, 4, (3, 500)).astype(np.float32)
    found = staged(
        rows[0], "dare_ties", *rows[1:], density=0.5, semantics="peft", weights=weights, seed=6
    )
    thinned = np.stack([dare.drop(x, 0.5, random.key(6, e, "x")) for e, x in enumerate(rows)])
    agrees = np.sign(thinned) == elect_signs(thinned, None, "sum", "positive")
    sums = np.where(agrees, thinned * np.array(weights).reshape(-1, 1), 0).sum(axis=0)
    expected = sums / np.maximum(agrees.sum(axis=0), 1)
    assert np.array_equal(found, expected.astype(np.float32))
    kept = staged(rows[0], "dare_ties", *rows[1:], density=1, semantics="peft", weights=weights)
    whole = staged(rows[0], "ties", *rows[1:], density=1, semantics="peft", weights=weights)
    assert np.array_equal(kept, whole)


def test_a_cancelled_vote() -> None:
    one, other = [1, -1, -2], [-1, -1, -2]
    assert staged(one, "dare_ties", other, density=1).tolist() == [-1, -1, -2]
    for method in ("dare_ties", "breadcrumbs_ties", "della"):
        options = {"gamma": 0} if method == "breadcrumbs_ties" else {}
        found = staged(one, method, other, density=1, semantics="mergekit", **options)
        assert found[0] == 1


def test_each_rank_has_its_own_chance_and_factor() -> None:
    options: dict[str, Any] = {"density": 0.5, "epsilon": 0.3}
    kept = np.zeros(3)
    for seed in range(400):
        x = staged([1, 2, 3], "della_linear", seed=seed, **options)
        assert np.isin(x, np.float32([0, 5, 4, 3.75])).all()
        kept += x != 0
        common = staged([1, 2, 3], "della_linear", seed=seed, semantics="mergekit", **options)
        assert common.sum() in (0, 6)
    # Six deviations of 400 draws of chances .2, .5 and .8.
    assert (np.abs(kept / 400 - [0.2, 0.5, 0.8]) < 6 * (0.25 / 400) ** 0.5).all()


@pytest.mark.parametrize("shape", [(), (1,), (4000, 1)])
def test_rows_of_one_entry_stay_with_the_density(shape: tuple[int, ...]) -> None:
    kept = 0.0
    n_seeds = 1 if np.prod(shape) > 1 else 400
    for seed in range(n_seeds):
        x = staged(np.ones(shape), "della_linear", density=0.25, epsilon=0.2, seed=seed)
        assert np.isin(x, [0, 4]).all()
        kept += float((x != 0).mean())
    n = n_seeds * int(np.prod(shape))
    assert abs(kept / n_seeds - 0.25) < 6 * (0.1875 / n) ** 0.5


def test_no_outliers() -> None:
    x = [1, -5, 2, 3, -4, 6, 0, 7, 8, -9]
    for options in ({}, {"scope": "tensor"}, {"semantics": "mergekit"}):
        found = staged(x, "breadcrumbs", density=0.3, gamma=0, **options)
        assert np.flatnonzero(found).tolist() == [7, 8, 9], options


def test_a_tensor_too_small_for_an_outlier_is_not_lost() -> None:
    x = np.arange(1, 51)
    found = staged(x, "breadcrumbs", density=0.5, gamma=0.01, semantics="mergekit")
    assert np.flatnonzero(found).tolist() == list(range(25, 50))


def test_the_scope_of_the_band() -> None:
    x = np.array([[1, 2, 3, 4], [10, 20, 30, 40]])
    options: dict[str, Any] = {"density": 0.5, "gamma": 0.25}
    rows = staged(x, "breadcrumbs", **options)
    assert rows.tolist() == [[0, 2, 3, 0], [0, 20, 30, 0]]
    for more in ({"scope": "tensor"}, {"semantics": "mergekit"}):
        found = staged(x, "breadcrumbs", **options, **more)
        assert found.tolist() == [[0, 0, 3, 4], [10, 20, 0, 0]]


def test_of_equal_magnitudes_the_lowest_index_ranks_first() -> None:
    x = [2, -2, 2, 2, -2, 1, 1, 1, 1, 1]
    for scope in ("row", "tensor"):
        found = staged(x, "breadcrumbs", density=0.5, gamma=0.2, scope=scope)
        assert found.tolist() == [0, 0, 2, 2, -2, 1, 1, 0, 0, 0]


def test_both_ends_of_the_band_in_one_value() -> None:
    for scope in ("row", "tensor"):
        found = staged([3] * 10, "breadcrumbs", density=0.3, gamma=0.2, scope=scope)
        assert np.flatnonzero(found).tolist() == [2, 3, 4]


def test_too_many_for_both_drops() -> None:
    x = np.arange(1, 11)
    options: dict[str, Any] = {"density": 0.9, "gamma": 0.3}
    assert np.flatnonzero(staged(x, "breadcrumbs", **options)).tolist() == list(range(7))
    found = staged(x, "breadcrumbs", semantics="mergekit", **options)
    assert np.flatnonzero(found).tolist() == list(range(9))


def test_the_seed_decides_and_so_does_the_order() -> None:
    x, y = np.ones((2, 1000), np.float32)
    one, same = (staged(x, "dare_linear", y, density=0.5, weights=[1, 10]) for _ in range(2))
    other = staged(x, "dare_linear", y, density=0.5, weights=[1, 10], seed=1)
    turned = staged(x, "dare_linear", y, density=0.5, weights=[10, 1])
    assert np.array_equal(one, same)
    assert (one != other).mean() > 0.5 and (one != turned).mean() > 0.4


def test_mean_of_many_draws_is_the_task_vector() -> None:
    """Both ways of rescaling are unbiased: six deviations of the mean of 400."""
    x = np.float32([1, -2, 3, 4, -5, 6, 7, 8])
    for method, options in (("dare_linear", {}), ("della_linear", {"epsilon": 0.3})):
        draws = [staged(x, method, density=0.5, seed=s, **options) for s in range(400)]
        # The largest deviation is that of a chance of .2: sqrt(.8 / .2).
        bound = 6 * 2 * np.abs(x) / 400**0.5
        assert (np.abs(np.mean(draws, axis=0) - x) < bound).all()


# What is refused, before any data is read.


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("della", {"density": 0.9}, "density 0.9 .* epsilon 0.15 is not between 0 and 1; .* 0.1"),
        ("della_linear", {"density": 0.1, "epsilon": 0.1}, "give an epsilon below 0.1"),
        ("della", {"epsilon": -1}, "epsilon: found -1, expected a finite number from 0 to 1"),
        ("dare_linear", {"density": 1.5}, "density: found 1.5, expected .* from 0 to 1"),
        ("dare_linear", {"gamma": 0.1}, "gamma"),
        ("dare_ties", {"rescale": "l2"}, "rescale: 'l2' is not known .*probability, l1, none"),
        ("breadcrumbs", {"gamma": 2}, "gamma: found 2, expected a finite number from 0 to 1"),
        ("breadcrumbs", {"scope": "row"}, "scope: .* only in paper semantics"),
        ("breadcrumbs", {"epsilon": 0.1}, "epsilon"),
    ],
)
def test_what_is_refused(method: str, options: dict[str, Any], words: str) -> None:
    base = {"x": np.full(3, np.nan, np.float32)}
    with pytest.raises(InputError, match=words):
        merge_state_dicts(base, [base], method=method, semantics="mergekit", **options)


def test_a_trim_of_what_l1_scales_is_refused() -> None:
    with pytest.raises(InputError, match="l1' scales cannot be trimmed; change it or 'trim_den"):
        staged(np.full(3, np.nan), "dare_ties", rescale="l1", trim_density=0.2)


@pytest.mark.parametrize("method", ["breadcrumbs", "della"])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, method: str) -> None:
    model = {"x": np.zeros(400_000, np.float32)}
    recipe: dict[str, Any] = {
        "merge_method": method,
        "base_model": str(write(tmp_path / "base", model)),
        "models": [{"model": str(write(tmp_path / "a", model))}],
    }
    words = r"tensor 'x': whole rows take 19 MiB .* raise it to 20MiB"
    with pytest.raises(InputError, match=words):
        merge(recipe, tmp_path / "out", max_memory="1MiB", threads=1)
    assert not (tmp_path / "out").exists()
    merge(recipe, tmp_path / "out", max_memory="20MiB", threads=1)


@pytest.mark.parametrize(("given", "meant"), [(True, None), ("false", "none"), (1, None)])
@pytest.mark.parametrize("semantics", ["paper", "mergekit"])
def test_rescale_as_a_switch(semantics: str, given: object, meant: str | None) -> None:
    x = np.arange(100)
    options: dict[str, Any] = {"density": 0.5, "semantics": semantics}
    found = staged(x, "dare_linear", rescale=given, **options)
    expected = staged(x, "dare_linear", **options, **({"rescale": meant} if meant else {}))
    assert np.array_equal(found, expected)
