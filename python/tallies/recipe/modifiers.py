"""Change the task vectors of any method that has a base: scale by layer, and drop layers.

Three keys of a recipe beside ``parameters``:

* ``post_scale``: a factor on the merged task vector, on top of the method's own scale; the factor
  may vary over tensors.
* ``layer_scaling`` (LiNeS): a factor that grows with depth, alpha + beta * t, where t is the
  position of the tensor's layer, from 0 to 1, as ``layers`` has it. With N models ``alpha: auto``
  is |sum_t x_t|_1 / |m|_1 / N with norms over the whole model, the weighted task vectors x_t, and
  the merged task vector m at scale 1; alpha is 0 where m is 0.
* ``drop_layers`` (LwPTV): in each model, the task vector is set to zero in the share of the layers
  that has the lowest or highest score.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from ..errors import InputError
from ..linalg.gram import Gram
from ..messages import counted, show, some
from ..methods._matrix import MatrixMethod
from ..methods._method import Method
from ..spec.choices import Semantics
from ..spec.parameters import Parameter
from .layers import Layers, layer_positions
from .parameters import check_parameters, number
from .settings import NOT_MERGED, Setting, evaluate, is_flat, normalise, stray

_SAME = "is the same for every tensor: the names show no more than one layer"

KEYS = ("post_scale", "layer_scaling", "drop_layers")


class _Options:
    """The options of a modifier, checked like the parameters of a method."""

    name: ClassVar[str]
    semantics: ClassVar[tuple[Semantics, ...]] = (Semantics.PAPER,)

    @classmethod
    def parameters(cls, semantics: Semantics = Semantics.PAPER) -> dict[str, Parameter]:
        """Return the options by name."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Parameter)}


class LayerScaling(_Options):
    """A factor that grows with depth: Wang et al., LiNeS, 2024, arXiv 2410.17146."""

    name = "layer_scaling"

    alpha = Parameter(None, "factor of the first layer and outside the layers", words=("auto",))
    beta = Parameter(None, "what the last layer's factor has more")


class DropLayers(_Options):
    """Layers without task vectors: Zhang et al., LwPTV, 2025, arXiv 2506.09093.

    The paper's score is not public, so that the score is an option.
    """

    name = "drop_layers"

    score = Parameter(None, "what layers are ranked by", choices=("size", "cosine", "distance"))
    ratio = Parameter(None, "share of the layers that is left out", low=0, high=1)
    drop = Parameter("lowest", "which end of the ranking", choices=("lowest", "highest"))
    unit = Parameter("layer", "what counts as one", choices=("layer", "tensor"))


def check(key: str, value: object) -> Any:
    """Return the checked value of one of ``KEYS``.

    Raises:
        InputError: The value is wrong; the message says how.
    """
    if key == "post_scale":
        try:
            return normalise(value, partial(number, parameter=Parameter(1.0, "")))
        except ValueError as problem:
            raise InputError(f"{key}: {problem}") from None
    options = LayerScaling if key == LayerScaling.name else DropLayers
    expected = ", ".join(options.parameters())
    if not isinstance(value, Mapping):
        raise InputError(f"{key}: found {show(value)}, expected a mapping with {expected}")
    given = check_parameters(value, options, Semantics.PAPER, where=key)
    for name, parameter in options.parameters().items():
        if parameter.default is None and name not in given:
            raise InputError(f"{key}: {name!r} is missing, expected {expected}")
    return given


@dataclass(frozen=True)
class Modifiers:
    """The checked modifiers of a merge."""

    post_scale: Setting = 1.0
    layer_scaling: Mapping[str, Any] | None = None
    drop_layers: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, given: Mapping[str, object], method: type[Method], *, has_base: bool) -> Modifiers:
        """Return the given modifiers.

        Args:
            given: Values by key; None counts as not given.
            method: The merge method.
            has_base: The merge has a base.

        Raises:
            InputError: A value is wrong, or the method does not allow the modifier.
        """
        found = {key: value for key, value in given.items() if value is not None}
        if found and not method.forms_task_vectors(has_base):
            raise InputError(
                f"{next(iter(found))}: {method.name} forms no task vectors"
                + (" without a base" if method.base_is_optional else "")
                + ", and this changes nothing else; remove it"
            )
        made = cls(**{key: check(key, value) for key, value in found.items()})
        if made.needs_norms and issubclass(method, MatrixMethod):
            raise InputError(
                f"layer_scaling: {method.name} merges whole matrices, and alpha 'auto' needs the "
                "norm of all that is merged beforehand; give a number"
            )
        return made

    @property
    def needs_norms(self) -> bool:
        """Alpha follows from L1 norms, which a survey finds."""
        return self.layer_scaling is not None and self.layer_scaling["alpha"] == "auto"

    @property
    def n_surveys(self) -> int:
        """The number of surveys before those of the method."""
        return self.needs_norms + (self.drop_layers is not None)

    def factors(self, names: Sequence[str], alpha: float | None = None) -> dict[str, float]:
        """Return the factor on the merged task vector of each tensor.

        Args:
            names: The names of all tensors.
            alpha: The value in place of ``auto``.
        """
        if self.layer_scaling is None and self.post_scale == 1.0:
            return dict.fromkeys(names, 1.0)
        positions = layer_positions(names)
        scaling = self.layer_scaling or {"alpha": 1.0, "beta": 0.0}
        first = scaling["alpha"] if alpha is None else alpha
        factors = {}
        for name, position in positions.items():
            by_depth = first + scaling["beta"] * position
            post = evaluate(self.post_scale, name, position)
            factors[name] = by_depth * (1.0 if post is None else float(post))
        return factors

    def warnings(
        self, names: Sequence[str], others: Collection[str] = (), model: str = "the models"
    ) -> Iterator[str]:
        """Yield warnings about filters of unmerged tensors, and about layers that are not found.

        Raises:
            InputError: A filter fits no tensor, or there is no layer to drop.
        """
        for pattern, near in stray(self.post_scale, names, others):
            told = f"post_scale: filter {pattern!r} fits no tensor"
            if near:
                raise InputError(f"{told}; {near}")
            yield f"{told} that is merged by itself: {NOT_MERGED}"
        if (self.post_scale, self.layer_scaling, self.drop_layers) == (1.0, None, None):
            return
        positions = layer_positions(names)
        scaling = self.layer_scaling or {"beta": 0.0}
        if is_flat(self.post_scale, positions):
            yield f"post_scale: the gradient {_SAME}"
        if scaling["beta"] and len({*positions.values()}) == 1:
            yield f"layer_scaling: the factor {_SAME}"
        self.refuse_no_layers(names, model)
        if self.drop_layers and len(self.layers(names)) < 2:
            yield "drop_layers: drops none or all: the names show no more than one layer"

    def refuse_no_layers(self, names: Sequence[str], model: str) -> None:
        """Raise InputError if layers are to be dropped, and the names show none."""
        if self.drop_layers and names and not self.layers(names):
            raise InputError(
                f"{model}: drop_layers: found no two layers in the names of "
                f"{counted(len(names), 'tensor')} ({some(names)}), expected numbers as in "
                "'layers.0.weight'; remove drop_layers, or let it rank tensors: 'unit: tensor'"
            )

    def layers(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the layers that ``drop_layers`` ranks, in order, and their tensors."""
        found: dict[str, list[str]] = {}
        by_tensor = (self.drop_layers or {}).get("unit") == "tensor"
        names = list(names)
        layers = Layers(names)
        for name in names:
            if layer := name if by_tensor else layers.label(name):
                found.setdefault(layer, []).append(name)
        return found

    def dropped(self, grams: Mapping[str, Gram], sizes: Mapping[str, int]) -> list[list[str]]:
        """Choose the layers that each model loses.

        Among equal scores the first layer is dropped first. A layer with a NaN or infinity is never
        dropped, so that the value is not hidden.

        Args:
            grams: The inner products of all models' task vectors, by layer.
            sizes: The number of elements, by layer.

        Returns:
            The dropped layers of each model.
        """
        options = self.drop_layers or {}
        sign = -1 if options.get("drop") == "highest" else 1
        n_dropped = int(len(grams) * options["ratio"])
        n_models = next(iter(grams.values())).n if grams else 0

        def rank(model: int, layer: str) -> tuple[bool, float]:
            if not grams[layer].is_finite():
                return (True, 0.0)
            return (False, sign * score(options["score"], grams[layer], model, sizes[layer]))

        return [sorted(grams, key=partial(rank, model))[:n_dropped] for model in range(n_models)]


def score(name: str, gram: Gram, model: int, n_elements: int) -> float:
    """Return the score of one model's task vector x in one layer.

    With the mean m of all models' task vectors in the layer, ``size`` is |x| / sqrt(n_elements),
    ``cosine`` the cosine between x and m (0 where x or m is zero), and ``distance``
    |x - m| / sqrt(n_elements).
    """
    own = [float(t == model) for t in range(gram.n)]
    mean = [1 / gram.n] * gram.n
    if name == "cosine":
        size = math.sqrt(gram.dot(model, model) * max(gram.product(mean, mean), 0.0))
        return gram.product(own, mean) / size if size > 0 else 0.0
    x = own if name == "size" else [a - b for a, b in zip(own, mean, strict=True)]
    return math.sqrt(max(gram.product(x, x), 0.0) / max(n_elements, 1))
