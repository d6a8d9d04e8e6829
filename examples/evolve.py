"""Evolutionary merging: CMA-ES over the weights and densities of eight experts.

python examples/evolve.py [--seeds 0 1 2 3 4] [--budget 100] [--fitness accuracy item-response]

Trains the models of ``tallies demo`` on the spot, a base and eight experts a seed. A candidate is a
TIES merge with a weight and a density for each expert, 16 numbers. Every search may show as many
images to merged models as ``--budget`` evaluations on all validation images would:

* random: candidates with weights from 0 to 2 and densities from 0 to 1, evaluated on all images;
* accuracy: CMA-ES with the mean accuracy on all images as the fitness;
* item-response: CMA-ES with MERGE^3's fitness, which shows a few images of each task to a
  candidate. A model of items says how likely an ability solves an image,
  ``sigmoid(sum_d a_id theta_d - b_i)``, and is fitted to the answers of base, experts and random
  candidates on all images. The ability of a merge is a weighted sum of the experts' and the base's
  abilities; the weights are fitted to its answers. Its fitness is half its accuracy on the images
  that it saw, and half the accuracy that the model expects on all of them. The best few candidates
  are evaluated on all images in the end.

Each search's best candidate by validation images is judged on the test images.

CMA-ES as in mergekit-evolve (Akiba et al., Evolutionary optimization of model merging recipes,
2024, arXiv 2403.13187) and MERGE^3 (Mencattini et al., 2025, arXiv 2502.10436), with other numbers:
weights and densities start at 1 and 0.5 with a step of 0.25, and the items are calibrated here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import cma
import numpy as np
import numpy.typing as npt
import torch
from family import Family, rows_of_seeds, table, train, with_means
from scipy.optimize import minimize
from torch import Tensor

from tallies.demo.model import Encoder
from tallies.demo.tasks import TASKS

Array = npt.NDArray[np.float64]

N_DIMENSIONS = 8
"""Of abilities in the model of items."""
N_ANCHORS = 20
"""Images of each task that a candidate sees under the fitness of item response."""
N_FINALISTS = 5
MOST_WEIGHT = 2.0


class Search:
    """Evaluates candidates until the images are spent, and keeps the best by all images."""

    def __init__(self, family: Family, budget: int) -> None:
        self._family = family
        self.n_left = budget * family.validation.n_images
        self.best, self.score = None, -1.0

    def encoder(self, genes: Array) -> Encoder:
        weights, densities = np.split(genes, 2)
        return self._family.merged(
            "ties", weight=[*map(float, weights)], density=[*map(float, densities)]
        )

    def answers(self, encoder: Encoder, chosen: Mapping[str, Tensor] | None = None) -> Array:
        """Tell which images the encoder classifies right, one number an image."""
        found = torch.cat(self._family.validation.correct(encoder, chosen)).double().numpy()
        self.n_left -= len(found)
        return np.asarray(found)

    def whole(self, genes: Array) -> Array:
        """The answers on all images; the candidate is remembered if it is the best."""
        encoder = self.encoder(genes)
        answers = self.answers(encoder)
        if answers.mean() > self.score:
            self.best, self.score = encoder, float(answers.mean())
        return answers

    def has_whole(self, n: int = 1) -> bool:
        """Tell if so many evaluations on all images are left."""
        return self.n_left >= n * self._family.validation.n_images

    def result(self) -> float:
        """The best candidate's mean accuracy on the test images, in percent."""
        assert self.best is not None
        return self._family.test.mean(self.best)


def random_genes(random: np.random.Generator) -> Array:
    n = len(TASKS)
    return np.concatenate([random.uniform(0, MOST_WEIGHT, n), random.uniform(0, 1, n)])


def by_chance(search: Search, seed: int) -> None:
    random = np.random.default_rng([seed, 0])
    while search.has_whole():
        search.whole(random_genes(random))


def evolve(seed: int, fitness: Callable[[Array], float], goes_on: Callable[[], bool]) -> None:
    """CMA-ES, which minimises, on genes that are scaled to the same range."""
    n = len(TASKS)
    scale = np.repeat([MOST_WEIGHT, 1.0], n)
    bounds = {"bounds": [0, 1], "seed": seed + 1, "verbose": -9}
    strategy = cma.CMAEvolutionStrategy(np.full(2 * n, 0.5), 0.25, bounds)
    while goes_on() and not strategy.stop():
        asked = strategy.ask()
        scores = []
        for genes in asked:
            if not goes_on():
                return
            scores.append(-fitness(np.asarray(genes) * scale))
        strategy.tell(asked, scores)


def by_accuracy(search: Search, seed: int) -> None:
    evolve(seed, lambda genes: float(search.whole(genes).mean()), search.has_whole)


class Items:
    """The model of items: discriminations a [n, d] and difficulties b [n], fitted to answers."""

    def __init__(self, answers: Array, seed: int) -> None:
        """Fit items and abilities together, with normal priors, to answers [models, items]."""
        seen = torch.from_numpy(answers)
        random = torch.Generator().manual_seed(seed)
        shapes = [(answers.shape[0], N_DIMENSIONS), (answers.shape[1], N_DIMENSIONS)]
        theta, a = (0.3 * torch.randn(shape, generator=random).double() for shape in shapes)
        b = torch.zeros(answers.shape[1]).double()
        parts = [part.requires_grad_() for part in (theta, a, b)]
        optimizer = torch.optim.LBFGS(parts, max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = theta @ a.T - b
            fit = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, seen, reduction="sum"
            )
            found = fit + 0.5 * sum((part**2).sum() for part in parts)
            found.backward()
            return found

        optimizer.step(loss)
        self.theta, self._a, self._b = (part.detach().numpy() for part in parts)

    def expected(self, theta: Array) -> Array:
        return 1 / (1 + np.exp(-np.clip(self._a @ theta - self._b, -30, 30)))

    def ability(self, answers: Array, anchors: Array, endpoints: Array) -> Array:
        """The sum of endpoints' abilities whose weights fit the answers on the anchors best."""
        a, b = self._a[anchors] @ endpoints.T, self._b[anchors]

        def loss(weights: Array) -> tuple[float, Array]:
            logits = np.clip(a @ weights - b, -30, 30)
            residual = 1 / (1 + np.exp(-logits)) - answers
            value = np.logaddexp(0, logits) - answers * logits
            return float(value.sum()), residual @ a

        start = np.full(len(endpoints), 1 / len(endpoints))
        return np.asarray(minimize(loss, start, jac=True, method="BFGS").x @ endpoints)


def by_item_response(search: Search, family: Family, seed: int, budget: int) -> None:
    random = np.random.default_rng([seed, 2])
    endpoints = [search.answers(family.encoder(one)) for one in (family.base, *family.experts)]
    others = [search.whole(random_genes(random)) for _ in range(max(budget // 6, 1))]
    items = Items(np.stack([*endpoints, *others]), seed)
    n_each = family.validation.n_images // len(TASKS)
    chosen = {
        task: torch.from_numpy(np.sort(random.permutation(n_each)[:N_ANCHORS])) for task in TASKS
    }
    anchors = np.concatenate([n_each * i + one.numpy() for i, one in enumerate(chosen.values())])
    unseen = np.setdiff1d(np.arange(family.validation.n_images), anchors)
    share = len(anchors) / family.validation.n_images
    candidates: list[tuple[float, Array]] = []

    def fitness(genes: Array) -> float:
        answers = search.answers(search.encoder(genes), chosen)
        theta = items.ability(answers, anchors, items.theta[: len(endpoints)])
        expected = items.expected(theta)[unseen].mean()
        estimate = share * answers.mean() + (1 - share) * expected
        candidates.append((float(answers.mean() + estimate) / 2, genes))
        return candidates[-1][0]

    evolve(seed, fitness, lambda: search.has_whole(N_FINALISTS + 1))
    for _, genes in sorted(candidates, key=lambda one: -one[0])[:N_FINALISTS]:
        search.whole(genes)


def run(seed: int, asked: argparse.Namespace) -> list[float]:
    """One row: the test accuracy of each search's best candidate, in percent."""
    family = train(seed, len(TASKS), asked.base_steps, asked.expert_steps)
    row = [family.test.mean(family.merged("ties"))]
    for kind in ("random", *asked.fitness):
        search = Search(family, asked.budget)
        if kind == "item-response":
            by_item_response(search, family, seed, asked.budget)
        else:
            (by_chance if kind == "random" else by_accuracy)(search, seed)
        row.append(search.result())
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each seed, and their means."""
    known = ["accuracy", "item-response"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--budget", type=int, default=100, help="evaluations on all images")
    parser.add_argument("--fitness", nargs="+", choices=known, default=known)
    parser.add_argument("--base-steps", type=int, default=250, help="of training the base")
    parser.add_argument("--expert-steps", type=int, default=300, help="of training each expert")
    asked = parser.parse_args(arguments)
    rows = rows_of_seeds(run, asked)
    print(table(["seed", "defaults", "random", *asked.fitness], with_means(rows)))
    print(
        f"test accuracy in % of the best candidate by validation images, after as many images as "
        f"{asked.budget} evaluations take; defaults: TIES without a search"
    )


if __name__ == "__main__":
    main()
