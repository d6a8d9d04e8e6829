"""Changes of parts of a fused tensor have the rows of those parts, or are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.checkpoint.adapters.adapter import Adapter, Edit
from tallies.checkpoint.adapters.layout_map import RULES, Rows
from tallies.checkpoint.adapters.part_rows import Part, part_sizes
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.changes import Product
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.tensors import TensorInfo
from tallies.errors import InputError
from tests.support.checkpoints import write

ATTENTION = "model.layers.0.self_attn"
QKV = f"{ATTENTION}.qkv_proj.weight"
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 1}
CONFIGS: list[Mapping[str, object]] = [
    {**HEADS, "head_dim": 4, "hidden_size": 8},
    {**HEADS, "hidden_size": 16},
    {"hidden_size": 8, "text_config": {**HEADS, "head_dim": 4}},
]
FIRST = {"q": 0, "k": 16, "v": 20}
BY_QUERIES = next(rule for rule in RULES if rule.rows is Rows.QUERIES)
BY_LAST = next(rule for rule in RULES if rule.rows is Rows.LAST)


def info(name: str, *shape: int) -> TensorInfo:
    n_bytes = 4 * int(np.prod(shape))
    return TensorInfo(name, "F32", shape, Path("adapter_model.safetensors"), 0, n_bytes)


def first_rows(
    path: Path, config: object, rows: Mapping[str, int], name: str = QKV
) -> dict[str, int]:
    """Place products on parts of a tensor of 24 rows; return the first row of each."""
    base = Checkpoint.open(
        write(path / "base", {name: np.zeros((24, 8), np.float32)}, config=config)
    )
    parent = name.rpartition(".")[0].rpartition(".")[0]
    edits = tuple(
        Edit(
            f"{parent}.{part}_proj.weight",
            Product(info(part, n, 2), info("right", 2, 8)),
            info(f"{part}.lora_B.weight", n, 2),
        )
        for part, n in rows.items()
    )
    placed = place(base, Adapter(Path("a"), (), "LoRA", edits))
    changes = placed.tensors[name].changes
    return {one.left.name: one.first_row for one in changes if isinstance(one, Product)}


@pytest.mark.parametrize("config", [*CONFIGS, None, {"num_attention_heads": 5, "head_dim": 7}])
@pytest.mark.parametrize("parts", ["q", "k", "v", "qv", "vq", "kv", "qkv", "vkq"])
def test_parts_of_the_right_rows_lie_at_theirs(tmp_path: Path, config: object, parts: str) -> None:
    sizes = {"q": 16, "k": 4, "v": 4}
    found = first_rows(tmp_path, config, {one: sizes[one] for one in parts})
    assert found == {one: FIRST[one] for one in parts}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("rows", "found", "expected"),
    [
        *(({"q": n}, n, 16) for n in (9, 12, 13, 15, 23, 24, 25)),
        *(({one: n}, n, 4) for one in "kv" for n in (1, 3, 5, 7, 11, 12, 13)),
        ({"q": 15, "k": 4, "v": 4}, 15, 16),
        ({"q": 16, "k": 3, "v": 3}, 3, 4),
        ({"q": 16, "v": 3}, 3, 4),
    ],
)
def test_rows_that_the_heads_do_not_have_are_refused(
    tmp_path: Path, config: object, rows: dict[str, int], found: int, expected: int
) -> None:
    with pytest.raises(InputError, match=f"has {found} rows, expected {expected};.*unload"):
        first_rows(tmp_path, config, rows)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        *(({"q": n}, "leaves 2 equal parts of the 24;") for n in (9, 13, 15, 23, 24, 25)),
        *(({one: 0}, "0 rows, expected one or more;") for one in "qkv"),
        ({"q": 14}, "14 rows, expected a multiple of the 5 that they leave for keys;"),
        ({"k": 5}, "5 rows, expected a divisor of the 14 that they leave for queries;"),
        ({"v": 7}, "7 rows, expected a divisor of the 10 that they leave for queries;"),
        *(({"k": n}, f"{n} rows, expected less than 1/2 of 24, ") for n in (12, 13, 24)),
        ({"q": 16, "v": 3}, "3 rows, expected 4;"),
        ({"v": 3, "q": 16}, "16 rows, expected 18;"),
        ({"k": 3, "v": 4}, "4 rows, expected 3;"),
        ({"q": 16, "k": 4, "v": 3}, "3 rows, expected 4;"),
    ],
)
def test_rows_that_leave_none_for_other_parts_are_refused(
    tmp_path: Path, rows: dict[str, int], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        first_rows(tmp_path, None, rows)


def test_gate_and_up_are_halves(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.gate_up_proj.weight"
    assert first_rows(tmp_path, None, {"gate": 12, "up": 12}, name) == {"gate": 0, "up": 12}
    for n in (11, 13):
        with pytest.raises(InputError, match=f"has {n} rows, expected 12"):
            first_rows(tmp_path / str(n), None, {"up": n}, name)
    odd = Part(next(rule for rule in RULES if rule.whole == "*.mlp.gate_up_proj.$"), 1, 25, None)
    assert odd.objection(12, {}) == "is one of 2 equal parts of 25 rows"


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_rows_of_any_true_parts_are_accepted(keys: int, groups: int, data: st.DataObject) -> None:
    for rule, own in ((BY_QUERIES, 0), (BY_LAST, len(BY_LAST.parts) - 1)):
        n = len(rule.parts)
        sizes = [groups * keys if index == own else keys for index in range(n)]
        order = data.draw(st.permutations(range(n)))
        seen: dict[int, int] = {}
        for index in order:
            part = Part(rule, index, sum(sizes), None)
            assert part.objection(sizes[index], seen) is None
            if seen:
                assert part.objection(sizes[index] + 1, seen) is not None
            seen[index] = sizes[index]


def test_a_folder_has_its_own_configuration() -> None:
    configs = {"": {}, "text_encoder": CONFIGS[0]}
    found = [
        part_sizes(BY_QUERIES, name, 24, configs.__getitem__) for name in ("w", "text_encoder/w")
    ]
    assert found == [None, (16, 4, 4)]
    assert part_sizes(BY_QUERIES, "text_encoder/w", 28, configs.__getitem__) is None
