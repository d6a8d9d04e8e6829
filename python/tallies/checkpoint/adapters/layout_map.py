"""The layout map: modules that other libraries fuse, split, stack or call by other names.

A rule says of one tensor that its rows are those of others, one after the other. It is read both
ways: an adapter may have been trained on either side, and the model may be stored as either.

In a pattern, ``*`` is any text, ``#`` a number, and ``$`` one of ``weight`` and ``bias``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final


class Rows(Enum):
    """How many rows the parts of a tensor have."""

    EQUAL = "equal"
    QUERIES = "queries"
    """The first has its own number, the others are equal: fewer keys and values than queries."""
    LAST = "last"
    """The last has its own number, the others are equal."""


@dataclass(frozen=True)
class Rule:
    """One tensor whose rows are those of its parts, one part after the other."""

    whole: str
    parts: tuple[str, ...]
    rows: Rows = Rows.EQUAL
    is_stack: bool = False
    """The whole is a stack [experts, rows, columns]; the last ``#`` of a part is the expert."""

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """Compile the whole and the parts, in this order."""
        return tuple(re.compile(_expression(one)) for one in (self.whole, *self.parts))

    @cached_property
    def literals(self) -> tuple[str, ...]:
        """Return a text that each name of the whole, and of each part, contains."""
        return tuple(max(re.split(r"[*#$]", one), key=len) for one in (self.whole, *self.parts))


_MARKS: Final = {"*": r"(.*)", "#": r"(\d+)", "$": r"(weight|bias)"}


def _expression(pattern: str) -> str:
    pieces = re.split(r"([*#$])", pattern)
    return "".join(_MARKS.get(one) or re.escape(one) for one in pieces) + r"\Z"


def filled(pattern: str, texts: tuple[str, ...]) -> str:
    """Return a pattern with its marks replaced by texts, in order.

    >>> filled("*.mlp.experts.#.up_proj.$", ("model.layers.0", "3", "weight"))
    'model.layers.0.mlp.experts.3.up_proj.weight'
    """
    left = iter(texts)
    return re.sub(r"[*#$]", lambda _: next(left), pattern)


def _renamed(*pairs: tuple[str, str]) -> Iterator[Rule]:
    for one, other in pairs:
        yield Rule(one, (other,))


def _experts(stack: str, single: str, gate: str, up: str, down: str) -> Iterator[Rule]:
    """Yield the two stacks of transformers 5, over a module of experts with one module each."""
    both = (f"{single}.#.{gate}.weight", f"{single}.#.{up}.weight")
    yield Rule(f"{stack}.gate_up_proj", both, is_stack=True)
    yield Rule(f"{stack}.down_proj", (f"{single}.#.{down}.weight",), is_stack=True)


_CLIP: Final = "*text_model.encoder.layers.#"
_OPEN_CLIP: Final = "*transformer.resblocks.#"

_VIT: Final = "*encoder.layer.#"
_VIT_NOW: Final = "*layers.#"

_FLUX: Final = "*transformer_blocks.#"
_FLUX_FILE: Final = "*double_blocks.#"
_SD3_FILE: Final = "*joint_blocks.#"


def _stream(file: str, of: str, mlp: tuple[str, str], mod: str, attn: str) -> Iterator[Rule]:
    """Yield the rules of one of the two streams of a block of Flux or Stable Diffusion 3.

    Args:
        file: The stream in an original file.
        of: The end of the names of its modules at diffusers, such as ``_context``.
        mlp: The two layers of its MLP in the file.
        mod: Its modulation in the file.
        attn: The names of its queries, keys, values and output at diffusers, in one text.
    """
    *inputs, output = attn.split()
    sides = tuple(f"{_FLUX}.attn.{one}.$" for one in inputs)
    yield Rule(f"{file}attn.qkv.$", sides)
    yield from _renamed(
        (f"{file}attn.proj.$", f"{_FLUX}.attn.{output}.$"),
        (f"{file}{mlp[0]}.$", f"{_FLUX}.ff{of}.net.0.proj.$"),
        (f"{file}{mlp[1]}.$", f"{_FLUX}.ff{of}.net.2.$"),
        (f"{file}{mod}.$", f"{_FLUX}.norm1{of}.linear.$"),
    )


_HERE: Final = "to_q to_k to_v to_out.0"
_CONTEXT: Final = "add_q_proj add_k_proj add_v_proj to_add_out"

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "*.self_attn.qkv_proj.$",
        ("*.self_attn.q_proj.$", "*.self_attn.k_proj.$", "*.self_attn.v_proj.$"),
        rows=Rows.QUERIES,
    ),
    Rule(
        "*.self_attn.W_pack.$",
        ("*.self_attn.q_proj.$", "*.self_attn.k_proj.$", "*.self_attn.v_proj.$"),
    ),
    Rule("*.mlp.gate_up_proj.$", ("*.mlp.gate_proj.$", "*.mlp.up_proj.$")),
    *_experts("*.experts", "*.experts", "gate_proj", "up_proj", "down_proj"),
    *_experts("*.experts", "*.experts", "w1", "w3", "w2"),
    *_experts("*.mlp.experts", "*.block_sparse_moe.experts", "w1", "w3", "w2"),
    *_renamed(
        ("*.block_sparse_moe.gate.$", "*.mlp.gate.$"),
        ("*.block_sparse_moe.input_linear.weight", "*.block_sparse_moe.experts.gate_up_proj"),
        ("*.block_sparse_moe.output_linear.weight", "*.block_sparse_moe.experts.down_proj"),
        ("*.block_sparse_moe.router.layer.weight", "*.block_sparse_moe.router.weight"),
    ),
    *(
        Rule(
            f"{_OPEN_CLIP}.attn.in_proj_{kind}",
            tuple(f"{_CLIP}.self_attn.{one}_proj.{kind}" for one in "qkv"),
        )
        for kind in ("weight", "bias")
    ),
    *_renamed(
        (f"{_OPEN_CLIP}.attn.out_proj.$", f"{_CLIP}.self_attn.out_proj.$"),
        (f"{_OPEN_CLIP}.mlp.c_fc.$", f"{_CLIP}.mlp.fc1.$"),
        (f"{_OPEN_CLIP}.mlp.c_proj.$", f"{_CLIP}.mlp.fc2.$"),
        (f"{_OPEN_CLIP}.ln_1.$", f"{_CLIP}.layer_norm1.$"),
        (f"{_OPEN_CLIP}.ln_2.$", f"{_CLIP}.layer_norm2.$"),
    ),
    *_renamed(
        (f"{_VIT}.attention.attention.query.$", f"{_VIT_NOW}.attention.q_proj.$"),
        (f"{_VIT}.attention.attention.key.$", f"{_VIT_NOW}.attention.k_proj.$"),
        (f"{_VIT}.attention.attention.value.$", f"{_VIT_NOW}.attention.v_proj.$"),
        (f"{_VIT}.attention.output.dense.$", f"{_VIT_NOW}.attention.o_proj.$"),
        (f"{_VIT}.intermediate.dense.$", f"{_VIT_NOW}.mlp.fc1.$"),
        (f"{_VIT}.output.dense.$", f"{_VIT_NOW}.mlp.fc2.$"),
        (f"{_VIT}.layernorm_before.$", f"{_VIT_NOW}.layernorm_before.$"),
        (f"{_VIT}.layernorm_after.$", f"{_VIT_NOW}.layernorm_after.$"),
    ),
    *_stream(f"{_FLUX_FILE}.img_", "", ("mlp.0", "mlp.2"), "mod.lin", _HERE),
    *_stream(f"{_FLUX_FILE}.txt_", "_context", ("mlp.0", "mlp.2"), "mod.lin", _CONTEXT),
    *_renamed(
        ("*single_blocks.#.linear2.$", "*single_transformer_blocks.#.proj_out.$"),
        ("*single_blocks.#.modulation.lin.$", "*single_transformer_blocks.#.norm.linear.$"),
    ),
    Rule(
        "*single_blocks.#.linear1.$",
        tuple(
            f"*single_transformer_blocks.#.{one}.$"
            for one in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        ),
        rows=Rows.LAST,
    ),
    *_stream(f"{_SD3_FILE}.x_block.", "", ("mlp.fc1", "mlp.fc2"), "adaLN_modulation.1", _HERE),
    *_stream(
        f"{_SD3_FILE}.context_block.",
        "_context",
        ("mlp.fc1", "mlp.fc2"),
        "adaLN_modulation.1",
        _CONTEXT,
    ),
)
