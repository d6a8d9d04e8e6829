"""Merges by methods that drop entries before the blend, with their references."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tallies import merge, merge_state_dicts
from tests.reference import breadcrumbs, dare, della, random
from tests.reference.dtype import Array, Floats
from tests.reference.staged import Stage, staged_merge
from tests.support import strategies
from tests.support.checkpoints import assert_holds, write
from tests.support.strategies import Models

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
    """The trim after the drop, in DARE before TIES."""

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
            promotes=self.semantics == "mergekit",
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
        others = [
            # A product with a subnormal density may round up to the density itself.
            0.9 * o * min(d, 1 - d) if min(d, 1 - d) > 1e-300 else 0.0
            for o, d in zip(others, densities, strict=True)
        ]
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


# Examples that tell the variants apart.


def staged(x: object, method: str, *others: object, **options: Any) -> Floats:
    """Merge these task vectors on a base of zeros."""
    arrays = [np.asarray(values, np.float32) for values in (x, *others)]
    base = {"x": np.zeros_like(arrays[0])}
    experts = [{"x": array} for array in arrays]
    found = merge_state_dicts(base, experts, method=method, **options)["x"]
    return np.asarray(found, np.float32)


def seed_with_survivors(n: int, wanted: int, density: float) -> int:
    """Return a seed with so many survivors among the n entries of the first expert's tensor x."""
    for seed in range(1000):
        drawn = random.numbers(random.key(seed, 0, "x"), n)
        if (drawn < random.threshold(density)).sum() == wanted:
            return seed
    raise AssertionError
