"""Adapters of fused, split, stacked and renamed modules change the same values in any layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies.checkpoint.adapters.adapter import Adapter, Edit
from tallies.checkpoint.adapters.layout_map import RULES, Rows, Rule, filled
from tallies.checkpoint.adapters.names import Names
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.adapters.unet_names import diffusers_name, original_names
from tallies.checkpoint.changes import Added, Change, Hadamard, Kronecker, Magnitudes, Product
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.tensors import TensorInfo
from tallies.errors import InputError
from tests.support.checkpoints import Array, Model, write
from tests.support.placed import decoded, value, values

N_EXPERTS = 3
COLUMNS = 6
RANK = 2
TEXTS = {"*": "model.layers.0", "#": "5", "$": "weight"}


def named(pattern: str, expert: int | None = None) -> str:
    marks = [TEXTS[one] for one in pattern if one in TEXTS]
    if expert is not None:
        marks[-1] = str(expert)
    return filled(pattern, tuple(marks))


def part_rows(rule: Rule) -> list[int]:
    rows = [4] * len(rule.parts)
    if rule.rows is Rows.QUERIES:
        rows[0] = 8
    if rule.rows is Rows.LAST:
        rows[-1] = 16
    return rows


class Layouts:
    """A rule's tensor as a whole and in parts, and the factors of an adapter of either."""

    def __init__(self, rule: Rule, path: Path) -> None:
        rng = np.random.default_rng(0)
        self.rule, self.path = rule, path
        experts = range(N_EXPERTS) if rule.is_stack else [None]
        self.names = [named(part, expert) for expert in experts for part in rule.parts]
        sizes = part_rows(rule) * len(experts)
        shapes = [(rows, COLUMNS) for rows in sizes]
        if rule.is_stack and len(rule.parts) == 1:
            shapes = [(COLUMNS, 4)] * len(experts)
        self.parts = {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in zip(self.names, shapes, strict=True)
        }
        self.whole = named(rule.whole)
        self.n_files = 0

    def joined(self, parts: Model) -> Array:
        rows = np.concatenate([parts[name] for name in self.names])
        if self.rule.is_stack:
            return rows.reshape(N_EXPERTS, -1, rows.shape[1])
        return rows

    def beside(self) -> Model:
        """The other stack of a layer, which shows how both are stored."""
        if not self.rule.is_stack:
            return {}
        module, _, own = self.whole.rpartition(".")
        inner = 4
        other, shape = {
            "gate_up_proj": ("down_proj", (N_EXPERTS, COLUMNS, inner)),
            "down_proj": ("gate_up_proj", (N_EXPERTS, 2 * inner, COLUMNS)),
        }[own]
        return {f"{module}.{other}": np.zeros(shape, np.float32)}

    def stored(self, tensors: Model) -> Checkpoint:
        self.n_files += 1
        return Checkpoint.open(write(self.path / str(self.n_files), tensors))

    def product(self, *shape: int) -> Product:
        """A product of stored factors that makes a matrix, or a stack of them."""
        *stack, rows, columns = shape
        rng = np.random.default_rng(sum(shape))
        factors = {
            "left": rng.standard_normal((*stack, rows, RANK)).astype(np.float32),
            "right": rng.standard_normal((*stack, RANK, columns)).astype(np.float32),
        }
        found = self.stored(factors).tensors
        return Product(found["left"], found["right"], 0.5)


def adapter(*edits: tuple[str, Change | TensorInfo]) -> Adapter:
    told = TensorInfo("q.lora_A.weight", "F32", (1,), Path("adapter_model.safetensors"), 0, 4)
    return Adapter(Path("a"), (), "LoRA", tuple(Edit(name, one, told) for name, one in edits))


@pytest.fixture(params=RULES, ids=lambda rule: f"{rule.whole} {rule.parts[0]}")
def layouts(request: pytest.FixtureRequest, tmp_path: Path) -> Layouts:
    return Layouts(request.param, tmp_path)


def test_an_adapter_of_the_parts_changes_the_whole(layouts: Layouts) -> None:
    edits = [(name, layouts.product(*one.shape)) for name, one in layouts.parts.items()]
    apart = values(place(layouts.stored(layouts.parts), adapter(*edits)))
    base = layouts.stored({layouts.whole: layouts.joined(layouts.parts), **layouts.beside()})
    placed = place(base, adapter(*edits))
    together = value(placed.tensors[layouts.whole])
    np.testing.assert_array_equal(together, layouts.joined(apart))
    np.testing.assert_array_equal(decoded(placed)[layouts.whole], together)


def test_an_adapter_of_the_whole_changes_the_parts(layouts: Layouts) -> None:
    whole = layouts.joined(layouts.parts)
    change = layouts.product(*whole.shape)
    base = layouts.stored({layouts.whole: whole})
    together = place(base, adapter((layouts.whole, change))).tensors[layouts.whole]
    placed = place(layouts.stored(layouts.parts), adapter((layouts.whole, change)))
    np.testing.assert_array_equal(layouts.joined(values(placed)), value(together))
    np.testing.assert_array_equal(layouts.joined(decoded(placed)), value(together))


QKV = "model.layers.0.self_attn.qkv_proj"
Q, K, V = (f"model.layers.0.self_attn.{one}_proj" for one in "qkv")


def split(path: Path) -> tuple[Layouts, Checkpoint]:
    layouts = Layouts(RULES[0], path)
    biases = {f"{one}.bias": np.zeros(rows, np.float32) for one, rows in ((Q, 8), (K, 4), (V, 4))}
    return layouts, layouts.stored({**layouts.parts, **biases})


def test_differences_and_norms_are_cut_by_rows(tmp_path: Path) -> None:
    layouts, base = split(tmp_path)
    arrays = {
        "d": np.arange(16),
        "w": np.arange(16 * COLUMNS).reshape(16, COLUMNS),
        "m": 1 + np.arange(16),
    }
    found = layouts.stored({name: one.astype(np.float32) for name, one in arrays.items()}).tensors
    edits: list[tuple[str, Change | TensorInfo]] = [
        (f"{QKV}.bias", Added(found["d"])),
        (f"{QKV}.weight", Added(found["w"], 0.5)),
        (f"{QKV}.weight", Magnitudes(found["m"], COLUMNS)),
    ]
    placed = values(place(base, adapter(*edits)))
    biases = np.concatenate([placed[f"{one}.bias"] for one in (Q, K, V)])
    np.testing.assert_array_equal(biases, arrays["d"])
    weights = np.concatenate([placed[f"{one}.weight"] for one in (Q, K, V)])
    whole = layouts.stored({f"{QKV}.weight": layouts.joined(layouts.parts)})
    expected = values(place(whole, adapter(*edits[1:])))[f"{QKV}.weight"]
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoKr of products"])
def test_loha_and_lokr_of_a_whole_are_cut_by_rows(tmp_path: Path, kind: str) -> None:
    layouts, base = split(tmp_path)
    change: Change = Hadamard(layouts.product(16, COLUMNS), layouts.product(16, COLUMNS), 0.25)
    if kind == "LoKr":
        arrays = {"l": np.arange(8).reshape(4, 2), "r": np.arange(12).reshape(4, 3)}
        found = layouts.stored({n: one.astype(np.float32) for n, one in arrays.items()}).tensors
        change = Kronecker(found["l"], found["r"], 0.25)
    elif kind == "LoKr of products":
        change = Kronecker(layouts.product(4, 2), layouts.product(4, 3), 0.25)
    placed = values(place(base, adapter((f"{QKV}.weight", change))))
    weights = np.concatenate([placed[f"{one}.weight"] for one in (Q, K, V)])
    whole = layouts.stored({f"{QKV}.weight": layouts.joined(layouts.parts)})
    expected = values(place(whole, adapter((f"{QKV}.weight", change))))[f"{QKV}.weight"]
    np.testing.assert_array_equal(weights, expected)


def test_changes_that_are_not_made_to_some_rows_are_refused(tmp_path: Path) -> None:
    layouts, base = split(tmp_path)
    shapes = {"l": (2, 2), "r": (8, 3), "d": (8, COLUMNS), "m": (8,), "c": (COLUMNS,)}
    found = layouts.stored({n: np.ones(s, np.float32) for n, s in shapes.items()}).tensors
    kron = Kronecker(found["l"], found["r"])
    with pytest.raises(InputError, match=r"has blocks of 8 rows, of which a part.*unload"):
        place(base, adapter((f"{QKV}.weight", kron)))
    norms = Magnitudes(found["c"], COLUMNS, of_columns=True)
    with pytest.raises(InputError, match=r"6 rows, expected 8.*unload"):
        place(base, adapter((f"{QKV}.weight", norms)))
    whole = layouts.stored({f"{QKV}.weight": layouts.joined(layouts.parts)})
    for change in (Added(found["d"]), Magnitudes(found["m"], COLUMNS), found["d"]):
        with pytest.raises(
            InputError, match=r"is (a|the) .*, expected a product of two factors.*merge_and_unload"
        ):
            place(whole, adapter((f"{Q}.weight", change)))


def test_parts_of_a_wrong_size_are_refused(tmp_path: Path) -> None:
    layouts, base = split(tmp_path)
    with pytest.raises(InputError, match="has 15 rows, expected 16"):
        place(base, adapter((f"{QKV}.weight", layouts.product(15, COLUMNS))))
    whole = layouts.stored({f"{QKV}.weight": layouts.joined(layouts.parts)})
    with pytest.raises(InputError, match=r"shape \[8, 5\]"):
        place(whole, adapter((f"{Q}.weight", layouts.product(8, 5))))
    edits = [(f"{one}.weight", layouts.product(n, COLUMNS)) for one, n in ((QKV, 16), (Q, 8))]
    with pytest.raises(InputError, match="both change"):
        place(whole, adapter(*edits))


def test_experts_of_stacks_that_are_stored_the_other_way_are_refused(tmp_path: Path) -> None:
    stacks = {"gate_up_proj": (3, COLUMNS, 8), "down_proj": (3, 4, COLUMNS)}
    layouts = Layouts(RULES[0], tmp_path)
    base = layouts.stored(
        {f"model.layers.0.mlp.experts.{n}": np.zeros(s, np.float32) for n, s in stacks.items()}
    )
    name = "model.layers.0.mlp.experts.0.down_proj.weight"
    with pytest.raises(InputError, match=r"which .* lacks"):
        place(base, adapter((name, layouts.product(COLUMNS, 4))))


def test_a_missing_expert_makes_no_stack(tmp_path: Path) -> None:
    rule = next(one for one in RULES if one.is_stack)
    layouts = Layouts(rule, tmp_path)
    whole = layouts.joined(layouts.parts)
    del layouts.parts[layouts.names[0]]
    with pytest.raises(InputError, match=r"which .* lacks"):
        place(
            layouts.stored(layouts.parts), adapter((layouts.whole, layouts.product(*whole.shape)))
        )


ORIGINAL = [
    *("time_embed.0.weight", "time_embed.2.bias", "label_emb.0.0.weight", "label_emb.0.2.weight"),
    *("input_blocks.0.0.weight", "input_blocks.1.0.in_layers.0.weight", "out.0.weight"),
    *("input_blocks.2.0.in_layers.2.weight", "input_blocks.3.0.op.weight", "out.2.bias"),
    *("input_blocks.4.0.skip_connection.weight", "input_blocks.5.0.emb_layers.1.bias"),
    *("input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight", "input_blocks.8.1.proj_in.bias"),
    *("middle_block.0.out_layers.3.weight", "middle_block.1.norm.weight"),
    *("middle_block.2.out_layers.0.weight", "output_blocks.0.0.in_layers.2.weight"),
    *("output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.bias"),
    *(
        "output_blocks.5.1.transformer_blocks.1.ff.net.0.proj.weight",
        "output_blocks.8.0.out_layers.3.bias",
    ),
]


@pytest.mark.parametrize("original", ORIGINAL)
def test_names_of_a_unet_go_both_ways(original: str) -> None:
    of_diffusers = diffusers_name(original)
    assert of_diffusers is not None and diffusers_name(of_diffusers) is None
    assert original in original_names(of_diffusers)
    assert original_names(original) == []


PIPELINE = {
    "unet": "unet/down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "te1": "text_encoder/text_model.encoder.layers.0.self_attn.q_proj.weight",
    "te2": "text_encoder_2/text_model.encoder.layers.0.self_attn.q_proj.weight",
}
OF_TEXT = "text_model.encoder.layers.0.self_attn.q_proj.weight"
SDXL = {
    "unet": "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
    "te1": f"conditioner.embedders.0.transformer.{OF_TEXT}",
    "te2": "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
}
KOHYA = {
    "unet": (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.weight",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    ),
    "te1": (
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight",
    ),
    "te2": (
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.weight",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.weight",
    ),
}


@pytest.mark.parametrize("stored", [PIPELINE, SDXL], ids=["pipeline", "single file"])
@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in KOHYA.items() for name in names]
)
def test_components_of_diffusion_models(
    tmp_path: Path, stored: dict[str, str], part: str, name: str
) -> None:
    layouts = Layouts(RULES[0], tmp_path)
    shapes = {one: (12, 4) if one.endswith("in_proj_weight") else (4, 4) for one in stored.values()}
    arrays = {one: np.zeros(shape, np.float32) for one, shape in shapes.items()}
    plain = {one.replace("/", "."): array for one, array in arrays.items()}
    opened = layouts.stored(plain).tensors
    base = Checkpoint(tmp_path, {one: opened[one.replace("/", ".")] for one in arrays}, ())
    placed = place(base, adapter((name, layouts.product(4, 4))))
    assert [one for one, tensor in placed.tensors.items() if tensor.changes] == [stored[part]]


def test_underscores_that_may_be_dots_of_two_names() -> None:
    names = Names(["unet.a_b.c.weight", "unet.a.b_c.weight"])
    assert len(names.find("lora_unet_a_b_c.weight")) == 2
