"""Plans a mixture of experts: which bytes of which model make each tensor of the result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from ..checkpoint.buffers import is_buffer
from ..checkpoint.cards import of_one_model
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.configuration import Written, true_text
from ..checkpoint.layout import Entry, Shard, layout_shards
from ..checkpoint.tensors import TensorInfo
from ..errors import InputError
from ..messages import counted, show
from ..recipe.inputs import Inputs
from ..spec.dtypes import FLOATS
from .config import RANDOM, Expert, Request
from .dense import MLP, layer_prefixes, model_type, result_dtype
from .gates import check_statistics
from .layouts import PROJECTIONS, Layout, chosen

_ATTENTION: Final = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Gate:
    """The gates of the experts of a layer, or of its shared expert."""

    layer: int
    is_shared: bool = False


@dataclass(frozen=True)
class Output:
    """A tensor of the result: pieces end to end, or gates, or zeros where it has neither."""

    entry: Entry
    pieces: tuple[tuple[TensorInfo, float], ...] = ()
    """Tensors of the models, and the factor on each."""
    gate: Gate | None = None


@dataclass(frozen=True)
class MoePlan:
    """The plan of a mixture of experts, made of headers alone."""

    request: Request
    layout: Layout
    base: Checkpoint
    models: Mapping[str, Checkpoint]
    """All models by their texts."""
    statistics: Checkpoint | None
    n_layers: int
    hidden: int
    outputs: Mapping[str, Output]
    warnings: tuple[str, ...] = field(default=())

    @property
    def n_experts(self) -> int:
        """The experts that are not shared."""
        return len(self.request.config.experts)

    @property
    def n_shared_gates(self) -> int:
        """The gates of shared experts in a layer."""
        shared = self.request.config.shared_experts or ()
        return len(shared) if self.layout.has_shared_gate else 0

    def shards(self, max_bytes: int) -> list[Shard]:
        """Return the files of the result, each up to ``max_bytes`` of data."""
        entries = [self.outputs[name].entry for name in sorted(self.outputs)]
        return layout_shards(entries, max_bytes)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The small files to copy, by their names beside the result."""
        return {
            path.as_posix(): at
            for path, at in self.base.small_files().items()
            if not of_one_model(path) and path.as_posix() != "config.json"
        }

    @cached_property
    def config_text(self) -> bytes:
        """The text of the result's config.json."""
        config = self.request.config
        new = self.layout.configure(
            self.base.config(),
            self.n_experts,
            config.experts_per_token,
            len(config.shared_experts or ()),
        )
        entries = [one.entry for one in self.outputs.values()]
        written = Written(entries, asked_dtype=True, left_out_head=_ties(self.base))
        where = os.fspath(self.base.path / "config.json")
        return true_text(f"{json.dumps(new, indent=2)}\n".encode(), where, written)

    def input_files(self) -> list[Path]:
        """Return all files of tensors that are read, once each."""
        read = [*self.models.values(), *([self.statistics] if self.statistics else [])]
        return sorted({Path(path) for one in read for path in one.files})

    def input_roots(self) -> list[Path]:
        """Return the directories or files that the inputs are."""
        read = [*self.models.values(), *([self.statistics] if self.statistics else [])]
        return [path for one in read for path in one.paths]


def _ties(base: Checkpoint) -> bool:
    return base.config().get("tie_word_embeddings") is True


def plan_moe(request: Request, inputs: Inputs) -> MoePlan:
    """Check a request against the headers of its models and plan the result.

    Args:
        request: The request, whose models of the hub have their commits.
        inputs: The models.

    Raises:
        InputError: A model lacks a tensor or has one of another shape, no layout fits, or the
            statistics are not those of these layers and experts.
    """
    config = request.config
    models = {text: inputs.open(text) for text in config.texts}
    base = models[config.base_model]
    shared = config.shared_experts or ()
    types = [model_type(models[text]) for text in config.texts]
    layout = chosen(config.architecture, types, len(shared))
    layers = layer_prefixes(base)
    for text in config.texts[1:]:
        _refuse_other_layers(models[text], base, len(layers))
    hidden = base.tensors[f"{layers[0]}.mlp.gate_proj.weight"].shape[-1]
    maker = _Maker(request, layout, models, layers, hidden, result_dtype(request, base))
    outputs = {one.entry[0]: one for one in maker.outputs()}
    statistics = None
    if config.statistics is not None:
        try:
            statistics = Checkpoint.open(request.places.path(config.statistics))
        except InputError as error:
            raise InputError(f"statistics: {error}") from None
        n_shared = len(shared) if layout.has_shared_gate else 0
        check_statistics(statistics, len(layers), len(config.experts), n_shared, hidden)
    return MoePlan(
        request,
        layout,
        base,
        models,
        statistics,
        len(layers),
        hidden,
        outputs,
        tuple([*_warnings(request), *inputs.warnings]),
    )


def _refuse_other_layers(model: Checkpoint, base: Checkpoint, n_layers: int) -> None:
    found = {match["number"] for name in model.tensors if (match := MLP.fullmatch(name))}
    if len(found) > n_layers:
        raise InputError(
            f"{model.path}: has {counted(len(found), 'layer')}, and the base {base.path} has "
            f"{n_layers}; take experts of as many layers, or cut them with 'slices' in a recipe of "
            "passthrough"
        )


def _warnings(request: Request) -> Iterator[str]:
    config = request.config
    n = len(config.experts)
    if n & (n - 1):
        yield f"{n} experts are no power of two: llama.cpp does not run the result"
    if config.gate_mode in RANDOM:
        yield "the gates are random: the result has to be trained before it is of use"
    if any(one.positive_prompts or one.negative_prompts for one in config.all_experts):
        yield f"prompts are not read: the gates are those of gate_mode {config.gate_mode}"
    if n > 1 and len({one.source_model for one in config.experts}) == 1:
        yield "all experts are the same model: the result computes what that model does"


@dataclass(frozen=True)
class _Maker:
    request: Request
    layout: Layout
    models: Mapping[str, Checkpoint]
    layers: Sequence[str]
    hidden: int
    dtype: str | None

    @property
    def base(self) -> Checkpoint:
        return self.models[self.request.config.base_model]

    def outputs(self) -> Iterator[Output]:
        """Yield the tensors of the result."""
        for name, info in self.base.tensors.items():
            if MLP.fullmatch(name) is None and not is_buffer(name, info.shape):
                yield self._of((info, 1.0), name=name, shape=info.shape)
        for number, layer in enumerate(self.layers):
            yield from self._experts(f"{layer}.mlp", number)
            if self.layout.has_biases:
                yield from self._zero_biases(layer)
        self._refuse_others()

    def _of(
        self,
        *pieces: tuple[TensorInfo, float],
        name: str,
        shape: Sequence[int],
        like: TensorInfo | None = None,
    ) -> Output:
        first = like or pieces[0][0]
        dtype = self.dtype if first.decoded_dtype in FLOATS and self.dtype else first.decoded_dtype
        return Output((name, dtype, tuple(shape)), pieces)

    def _experts(self, prefix: str, number: int) -> Iterator[Output]:
        config, layout = self.request.config, self.layout
        experts = [self._weights(one, prefix) for one in config.experts]
        shared = [self._weights(one, prefix) for one in config.shared_experts or ()]
        down = f"{prefix}.experts.down_proj"
        if layout.is_stacked:
            rows, columns = experts[0]["gate_proj"][0].shape
            both = [one[key] for one in experts for key in ("gate_proj", "up_proj")]
            yield self._of(
                *both,
                name=f"{prefix}.experts.gate_up_proj",
                shape=(len(experts), 2 * rows, columns),
            )
            shape = (len(experts), *experts[0]["down_proj"][0].shape)
            yield self._of(*(one["down_proj"] for one in experts), name=down, shape=shape)
        else:
            named_experts = [(f"experts.{e}", one) for e, one in enumerate(experts)]
            for word, weights in [*named_experts, *((layout.shared_prefix, s) for s in shared)]:
                for key, piece in weights.items():
                    name = f"{prefix}.{word}.{key}.weight"
                    yield self._of(piece, name=name, shape=piece[0].shape)
        like = experts[0]["gate_proj"][0]
        dtype = self.dtype or like.decoded_dtype
        gates = (f"{prefix}.gate.weight", dtype, (len(experts), self.hidden))
        yield Output(gates, gate=Gate(number))
        if layout.has_shared_gate:
            entry = (f"{prefix}.shared_expert_gate.weight", dtype, (len(shared), self.hidden))
            yield Output(entry, gate=Gate(number, is_shared=True))

    def _weights(self, expert: Expert, prefix: str) -> dict[str, tuple[TensorInfo, float]]:
        """Return the three matrices of an expert in a layer, with the factor on each."""
        model = self.models[expert.source_model]
        found = {}
        for key in PROJECTIONS:
            name = f"{prefix}.{key}.weight"
            if (info := model.tensors.get(name)) is None:
                raise InputError(
                    f"{model.label}: tensor {show(name)} is missing, expected that of an expert; "
                    "all models must have the layers of the base"
                )
            expected = self.base.tensors[name].shape
            if info.shape != expected:
                raise InputError(
                    f"{model.label}: tensor {show(name)} has shape {list(info.shape)}, expected "
                    f"{list(expected)}, that of {self.base.label}; experts have equal shapes"
                )
            factor = expert.residual_scale if key == "down_proj" else None
            found[key] = (info, 1.0 if factor is None else factor)
        return found

    def _zero_biases(self, layer: str) -> Iterator[Output]:
        for key in _ATTENTION:
            name, weight = f"{layer}.self_attn.{key}.bias", f"{layer}.self_attn.{key}.weight"
            if name not in self.base.tensors and weight in self.base.tensors:
                info = self.base.tensors[weight]
                yield self._of(name=name, shape=info.shape[:1], like=info)

    def _refuse_others(self) -> None:
        """Refuse tensors of dense layers that no expert of the layout has, such as biases."""
        known = {f"{key}.weight" for key in PROJECTIONS}
        for text in self.request.config.texts:
            for name in self.models[text].tensors:
                match = MLP.fullmatch(name)
                if match and match["rest"] not in known:
                    raise InputError(
                        f"{self.models[text].label}: tensor {show(name)} has no place in the "
                        f"experts of {self.layout.title}, which have {', '.join(sorted(known))}"
                    )
