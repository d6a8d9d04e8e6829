"""MAP: models that trade the accuracy on one task for that on another, from few evaluations.

python examples/pareto.py [--seeds 0 1 2 3 4] [--budget 50]

Trains the models of ``tallies demo`` on the spot, a base and three experts a seed. A candidate is
``base + sum_t c_t (expert_t - base)``. The accuracy on each task, as a function of the three
coefficients, is fitted by the sigmoid of a quadratic polynomial, from merges with random
coefficients. NSGA-II then searches the fitted functions, which costs no merge, and the rest of the
budget evaluates merges along the front that it found. Random search spends all of the budget on
random coefficients. Each set of candidates is judged on test images by the area, or hypervolume,
that its front dominates: the front is chosen by the accuracies on validation images.

Li et al., MAP, 2024, arXiv 2406.07529. With other numbers than the authors' code: NSGA-II instead
of NSGA-III, and within the coefficients' range, 0 to 1, instead of -3 to 3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from family import Family, rows_of_seeds, table, train, with_means
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.indicators.hv import Hypervolume
from pymoo.optimize import minimize
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy.optimize import least_squares

Array = npt.NDArray[np.float64]

N_TASKS = 3
EASE = 1e-3
"""How far from 0 and 1 the accuracies are kept before the fit, in terms of the sigmoid's start."""


def terms(c: Array) -> Array:
    """The terms of the polynomial: 1, c_i, and c_i c_j for i <= j; (T + 1)(T + 2) / 2 columns."""
    i, j = np.triu_indices(c.shape[1])
    return np.hstack([np.ones((len(c), 1)), c, c[:, i] * c[:, j]])


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def fitted(c: Array, accuracy: Array) -> Callable[[Array], Array]:
    """The sigmoid of a quadratic polynomial that fits one task's accuracies, in 0 to 1."""
    columns = terms(c)
    logits = np.clip(accuracy, EASE, 1 - EASE)
    start = np.linalg.lstsq(columns, np.log(logits / (1 - logits)), rcond=None)[0]
    found = least_squares(lambda x: sigmoid(columns @ x) - accuracy, start).x
    return lambda other: sigmoid(terms(other) @ found)


class Surrogate(Problem):  # type: ignore[misc]
    """The fitted accuracies, negative because NSGA-II minimises."""

    def __init__(self, functions: Sequence[Callable[[Array], Array]]) -> None:
        super().__init__(n_var=len(functions), n_obj=len(functions), xl=0.0, xu=1.0)
        self._functions = functions

    def _evaluate(self, x: Array, out: dict[str, Array], *args: object, **rest: object) -> None:
        out["F"] = -np.stack([function(x) for function in self._functions], axis=1)


class Scores:
    """Merges with coefficients, and their accuracies in 0 to 1 on validation and test images."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def of(self, c: Array) -> tuple[Array, Array]:
        rows = []
        for one in c:
            encoder = self._family.merged("task_arithmetic", weights=[float(x) for x in one])
            rows.append(
                [self._family.validation.accuracies(encoder), self._family.test.accuracies(encoder)]
            )
        found = np.array(rows) / 100
        return found[:, 0], found[:, 1]


def hypervolume(validation: Array, test: Array) -> float:
    """The share of the cube of accuracies that the validation's front dominates on test images."""
    front = NonDominatedSorting().do(-validation, only_non_dominated_front=True)
    return float(Hypervolume(ref_point=np.zeros(test.shape[1])).do(-test[front]))


def map_search(
    scores: Scores, budget: int, n_fit: int, generations: int, seed: int
) -> tuple[Array, Array, float]:
    """The accuracies of MAP's candidates, and R^2 of the fit on those that it was not fitted to."""
    random = np.random.default_rng([seed, 1])
    c = random.uniform(size=(n_fit, N_TASKS))
    c[: N_TASKS + 1] = np.vstack([np.eye(N_TASKS), np.full(N_TASKS, 1 / N_TASKS)])
    validation, test = scores.of(c)
    functions = [fitted(c, validation[:, t]) for t in range(N_TASKS)]
    found = minimize(
        Surrogate(functions), NSGA2(pop_size=100), ("n_gen", generations), seed=seed, verbose=False
    )
    chosen = spread(found.X, found.F, budget - n_fit)
    more = scores.of(chosen)
    predicted = np.stack([function(chosen) for function in functions], axis=1)
    residual = ((more[0] - predicted) ** 2).sum()
    r2 = 1 - residual / ((more[0] - validation.mean(0)) ** 2).sum()
    return np.vstack([validation, more[0]]), np.vstack([test, more[1]]), float(r2)


def spread(x: Array, f: Array, n: int) -> Array:
    """As many points of a front as asked for, each the one farthest from those before."""
    x, f = np.atleast_2d(x), np.atleast_2d(f)
    taken = [int(f.sum(1).argmin())]
    while len(taken) < min(n, len(x)):
        distances = np.linalg.norm(f[:, None] - f[taken], axis=2).min(1)
        taken.append(int(distances.argmax()))
    return x[taken]


def run(seed: int, asked: argparse.Namespace) -> list[float]:
    """One row: the hypervolumes and best mean accuracies of both searches, and the fit's R^2."""
    scores = Scores(train(seed, N_TASKS, asked.base_steps, asked.expert_steps))
    random = np.random.default_rng([seed, 0])
    plain = scores.of(random.uniform(size=(asked.budget, N_TASKS)))
    n_fit = max(asked.budget * 3 // 5, N_TASKS + 2)
    *found, r2 = map_search(scores, asked.budget, n_fit, asked.generations, seed)

    def best(validation: Array, test: Array) -> float:
        return 100 * float(test[validation.mean(1).argmax()].mean())

    volumes = [100 * hypervolume(*one) for one in (plain, found)]
    return [*volumes, volumes[1] - volumes[0], best(*plain), best(*found), r2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each seed, and their means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--budget", type=int, default=50, help="merges that are evaluated")
    parser.add_argument("--generations", type=int, default=100, help="of NSGA-II")
    parser.add_argument("--base-steps", type=int, default=250, help="of training the base")
    parser.add_argument("--expert-steps", type=int, default=300, help="of training each expert")
    asked = parser.parse_args(arguments)
    rows = rows_of_seeds(run, asked)
    head = ["seed", "volume random", "volume MAP", "gain", "mean random", "mean MAP", "R^2"]
    print(table(head, with_means(rows)))
    print(
        f"volume: hypervolume of the front on test images, in % of the cube; mean: test accuracy "
        f"in % of the candidate with the best mean on validation images; {asked.budget} "
        "evaluations each"
    )


if __name__ == "__main__":
    main()
