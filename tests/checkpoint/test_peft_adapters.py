"""PEFT's adapters are opened as changes, or refused with the file, the tensor and a way out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tallies.checkpoint.adapters.adapter import Adapter
from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.adapters.recognising import is_adapter
from tallies.checkpoint.changes import Product, Rows
from tallies.checkpoint.opening import open_model
from tallies.errors import InputError
from tests.support import adapters, checkpoints
from tests.support.placed import stored, value
from tests.support.torch_files import saved

PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"


def write(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F32", **config: Any
) -> Path:
    """Write an adapter of tensors of these shapes; ``config`` replaces what PEFT writes."""
    tensors = {name: np.ones(shape, checkpoints.DTYPES[dtype]) for name, shape in shapes.items()}
    return adapters.Adapter(tensors, adapters.peft_config(2, 4.0, ["q_proj"]) | config).write(path)


def pair(
    module: str = Q, rank: int = 2, n_in: int = 16, n_out: int = 16
) -> dict[str, tuple[int, ...]]:
    return {
        f"{PREFIX}{module}.lora_A.weight": (rank, n_in),
        f"{PREFIX}{module}.lora_B.weight": (n_out, rank),
    }


def products(adapter: Adapter) -> dict[str, Product]:
    return {edit.name: edit.change for edit in adapter.edits if isinstance(edit.change, Product)}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_values_are_those_of_the_formulas(
    tmp_path: Path, rslora: bool, dora: bool, dtype: str
) -> None:
    base = adapters.model(checkpoints.DTYPES["F32"])
    made = adapters.lora(
        base, rslora=rslora, dora=dora, save=["norm"], dtype=checkpoints.DTYPES[dtype]
    )
    checkpoints.write(tmp_path / "base.safetensors", base)
    path = made.write(tmp_path / "adapter")
    assert is_adapter(str(path))
    placed = place(open_model(str(tmp_path / "base.safetensors")), open_adapter(path))
    for name, expected in adapters.merged(base, made).items():
        found = value(placed.tensors[name])
        np.testing.assert_array_equal(found, expected.astype(found.dtype), err_msg=name)


@pytest.mark.parametrize(
    ("of_model", "of_adapter", "of_result"),
    [("BF16", "F32", "BF16"), ("F32", "F16", "F32"), ("F16", "F16", "F16"), ("F64", "F32", "F64")],
)
def test_a_saved_module_has_the_dtype_of_the_models(
    tmp_path: Path, of_model: str, of_adapter: str, of_result: str
) -> None:
    base = {"norm.weight": np.ones(4, checkpoints.DTYPES[of_model])}
    checkpoints.write(tmp_path / "base.safetensors", base)
    path = write(tmp_path / "a", {f"{PREFIX}norm.weight": (4,)}, of_adapter)
    placed = place(open_model(str(tmp_path / "base.safetensors")), open_adapter(path))
    found = placed.tensors["norm.weight"]
    assert (found.dtype, found.decoded_dtype) == (of_adapter, of_result)
    assert found.is_decoded == (of_model != of_adapter)


@pytest.mark.parametrize(
    ("module", "rank", "scale"),
    [
        # A pattern is the end of a name from a dot on; the first one that matches holds.
        ("model.layers.0.self_attn.q_proj", 3, 9 / 3),
        ("model.layers.1.self_attn.q_proj", 2, 4 / 2),
        ("model.layers.10.self_attn.q_proj", 5, 9 / 5),
        ("model.layers.0.xq_proj", 2, 4 / 2),
        ("model.layers.0.q_proj.more", 2, 4 / 2),
        ("model.norm", 2, 1.5 / 2),
    ],
)
def test_patterns_are_matched_as_peft_does(
    tmp_path: Path, module: str, rank: int, scale: float
) -> None:
    path = write(
        tmp_path / "a",
        pair(module, rank),
        rank_pattern={r"layers\.0\.self_attn.q_proj": 3, r"model\.layers\.\d\d\..*": 5},
        alpha_pattern={"norm": 1.5, r"(0|10)\.self_attn\.q_proj": 9},
    )
    assert products(open_adapter(path))[f"{module}.weight"].scale == pytest.approx(scale)


def test_rank_stabilised_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pair(), use_rslora=True)
    assert products(open_adapter(path))[f"{Q}.weight"].scale == pytest.approx(4 / math.sqrt(2))


def test_what_the_configuration_says_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pair(), base_model_name_or_path="org/base")
    adapter = open_adapter(path)
    assert (adapter.kind, adapter.base, adapter.path) == ("LoRA", "org/base", path)
    assert adapter.config["r"] == 2
    assert [file.name for file in adapter.files] == [
        "adapter_model.safetensors",
        "adapter_config.json",
    ]
    by_file = open_adapter(path / "adapter_model.safetensors")
    assert by_file.edits == adapter.edits


@pytest.mark.parametrize("name", ["adapter_model.bin", "other.safetensors"])
def test_a_file_beside_the_configuration(tmp_path: Path, name: str) -> None:
    """A file of PEFT's names is read with the configuration beside it, whatever it is called."""
    path = write(tmp_path / "a", pair())
    if name.endswith(".bin"):
        state = {key: torch.ones(shape) for key, shape in pair(rank=2).items()}
        (path / name).write_bytes(saved(state))
    else:
        (path / "adapter_model.safetensors").rename(path / name)
    adapter = open_adapter(path / name)
    assert [file.name for file in adapter.files] == [name, "adapter_config.json"]
    assert [edit.name for edit in adapter.edits] == [f"{Q}.weight"]


def test_names_with_that_of_the_adapter(tmp_path: Path) -> None:
    names = {name.replace(".weight", ".default.weight"): s for name, s in pair().items()}
    saved = {f"{PREFIX}score.modules_to_save.default.weight": (3, 16)}
    ignored = {f"{PREFIX}score.original_module.weight": (3, 16)}
    adapter = open_adapter(write(tmp_path / "a", names | saved | ignored))
    assert [edit.name for edit in adapter.edits] == ["score.weight", f"{Q}.weight"]


def test_saved_modules_within_modules(tmp_path: Path) -> None:
    saved = f"{PREFIX}classifier.modules_to_save.default.dense.weight"
    adapter = open_adapter(write(tmp_path / "a", pair() | {saved: (3, 16)}))
    assert adapter.edits[0].name == "classifier.dense.weight"


@pytest.mark.parametrize("untrained", ["A", "B"])
@pytest.mark.parametrize("dora", [False, True])
def test_products_of_zero_are_a_warning(tmp_path: Path, untrained: str, dora: bool) -> None:
    made = adapters.lora(adapters.model(), dora=dora)
    path = made.write(tmp_path / "trained")
    assert open_adapter(path).warnings == ()
    zeros = {
        name: np.copysign(np.zeros_like(array), array) if f"lora_{untrained}" in name else array
        for name, array in made.tensors.items()
    }
    path = adapters.Adapter(zeros, made.config).write(tmp_path / "fresh")
    said = open_adapter(path).warnings
    # Magnitudes may have been trained alone.
    assert dora or "fresh: changes nothing: all its products are zero" in said[0]
    assert len(said) == (not dora)


def test_a_scale_of_zero_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pair(), lora_alpha=0)
    assert "changes nothing" in open_adapter(path).warnings[0]


def test_tokens_in_any_order_are_rows_in_ascending_order(tmp_path: Path) -> None:
    name = f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
    path = write(tmp_path / "a", {name: (4, 16)}, trainable_token_indices=[5, 9, 2, 9])
    changes = [edit.change for edit in open_adapter(path).edits]
    assert [one.indices for one in changes if isinstance(one, Rows)] == [(5, 9), (2, 9)]
    assert [one.values.shape for one in changes if isinstance(one, Rows)] == [(2, 16), (2, 16)]


REFUSED = {
    "a kind of prompts": ({"peft_type": "PREFIX_TUNING"}, "'PREFIX_TUNING', which changes no weig"),
    "another kind": ({"peft_type": "IA3"}, "the kind 'IA3', expected LORA.*merge_and_unload"),
    "no kind": ({"peft_type": None}, "peft_type is None, expected a name"),
    "replicated layers": (
        {"layer_replication": [[0, 2], [1, 3]]},
        "layer_replication makes a model of other layers.*merge_and_unload",
    ),
    "QALoRA": ({"use_qalora": True}, "QALoRA"),
    "blocks": ({"use_bdlora": {"nblocks": 2}}, "BD-LoRA"),
    "a changed base": (
        {"init_lora_weights": "pissa_niter_4"},
        "'pissa_niter_4': the factors belong to a model .*path_initial_model_for",
    ),
    "a rank of zero": ({"r": 0}, "r is 0, expected a positive integer"),
    "a rank in words": ({"r": "two"}, "r is 'two', expected a positive integer"),
    "an alpha in words": ({"lora_alpha": "1"}, "lora_alpha is '1', expected a number"),
    "an infinite alpha": ({"lora_alpha": float("inf")}, "lora_alpha is inf, expected a number"),
    "a flag in words": ({"use_dora": "yes"}, "use_dora is 'yes', expected true or false"),
    "no object": ({"rank_pattern": [1]}, r"rank_pattern is \[1\], expected an object of numbers"),
    "no pattern": (
        {"alpha_pattern": {"q_proj(": 2}},
        r"alpha_pattern is 'q_proj\(', expected a regular expression",
    ),
    "half a rank": (
        {"rank_pattern": {"q_proj": 1.5}},
        r"rank_pattern\['q_proj'\] is 1.5, expected a positive integer",
    ),
    "names in one text": ({"target_parameters": "x"}, "target_parameters is 'x', expected a list"),
    "tokens in words": ({"trainable_token_indices": ["a"]}, "expected lists of the numbers"),
    "another rank": (
        {"r": 3},
        rf"{Q}.lora_A.weight' has shape \(2, 16\), expected the rank 3 first, which adapter_config",
    ),
    "a base in numbers": (
        {"base_model_name_or_path": 5},
        "base_model_name_or_path is 5, expected a name or a path",
    ),
    "saved modules in numbers": ({"modules_to_save": 5}, "modules_to_save is 5, expected a list"),
    "targets in numbers": ({"target_modules": 5}, "target_modules is 5, expected a list of names"),
    "no pattern of targets": ({"target_modules": "("}, r"target_modules is '\(', expected a regul"),
    "a bias in numbers": ({"bias": 3}, "bias is 3, expected none, all or lora_only"),
    "magnitudes lost": ({"use_dora": True}, "lora_B.weight' has no lora_magnitude_vector"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_configurations_that_are_refused(tmp_path: Path, case: str) -> None:
    config, message = REFUSED[case]
    path = write(tmp_path / "a", pair(), **config)
    with pytest.raises(InputError, match=message) as refusal:
        open_adapter(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


BROKEN: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "a factor alone": (
        {f"{PREFIX}{Q}.lora_A.weight": (2, 16)},
        f"lora_A.weight' stands alone, expected lora_B of '{Q}' beside it",
    ),
    "another factor alone": (
        {f"{PREFIX}{Q}.lora_embedding_B": (16, 2)},
        "expected lora_embedding_A of",
    ),
    "no matrix": (pair() | {f"{PREFIX}{Q}.lora_B.weight": (16,)}, "shape .16,., expected a matrix"),
    "an empty factor": (pair() | {f"{PREFIX}{Q}.lora_A.weight": (0, 16)}, "the rank 2 first"),
    "groups": (
        {
            f"{PREFIX}conv.lora_A.weight": (2, 4, 3, 3),
            f"{PREFIX}conv.lora_B.weight": (8, 1, 1, 1),
        },
        r"the rank 2 last \(a convolution of several groups is not merged\)",
    ),
    "magnitudes that PEFT ignores": (
        pair() | {f"{PREFIX}{Q}.lora_magnitude_vector": (16,)},
        "lora_magnitude_vector' has the norms of DoRA, but use_dora in adapter_config.json is not",
    ),
    "values that PEFT ignores": (
        pair() | {f"{PREFIX}{Q}.weight": (16, 16)},
        f"q_proj.weight' has values of a weight that factors change.*does not name '{Q}'",
    ),
    "magnitudes alone": (
        pair() | {f"{PREFIX}model.norm.lora_magnitude_vector": (16,)},
        "is a piece of no pair",
    ),
    "several adapters": (
        {
            f"{PREFIX}{Q}.lora_{one}.{name}.weight": shape
            for one, shape in (("A", (2, 16)), ("B", (16, 2)))
            for name in ("math", "code")
        },
        "has adapters of several names .'code', 'math'., expected one",
    ),
    "two tensors for a piece": (
        pair() | {f"{PREFIX}{Q}.lora_A.default.weight": (2, 16)},
        "are both for 'lora_A'",
    ),
    "another kind's piece": (
        pair() | {f"{PREFIX}{Q}.lora_E": (2, 1)},
        r"lora_E' is a piece of an adapter of another kind",
    ),
    "tokens": (
        {f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": (4, 16)},
        r"trainable_tokens_delta' has shape \(4, 16\), expected 0 rows",
    ),
    "nothing": ({}, "holds no tensor of an adapter"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_tensors_that_are_refused(tmp_path: Path, case: str) -> None:
    shapes, message = BROKEN[case]
    path = write(tmp_path / "a", shapes)
    with pytest.raises(InputError, match=message) as refusal:
        open_adapter(path)
    assert "adapter_model.safetensors" in str(refusal.value)
    assert "merge_and_unload" in str(refusal.value)


class Runs:
    """An object whose pickle calls a function."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_read_but_never_run(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pair())
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.bin").write_bytes(saved({"x.lora_A.weight": Runs(tmp_path / "ran")}))
    with pytest.raises(InputError, match=r"adapter_model\.bin: .*"):
        open_adapter(path)
    assert is_adapter(str(path))
    assert not (tmp_path / "ran").exists()


def test_factors_in_a_pickle_may_be_views(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pair())
    (path / "adapter_model.safetensors").unlink()
    a, b = torch.randn(16, 2).t(), torch.randn(2, 16).t()
    names = [f"{PREFIX}{Q}.lora_{one}.weight" for one in "AB"]
    (path / "adapter_model.bin").write_bytes(saved(dict(zip(names, (a, b), strict=True))))
    product = products(open_adapter(path))[f"{Q}.weight"]
    np.testing.assert_array_equal(stored(product.left), b.numpy())
    np.testing.assert_array_equal(stored(product.right), a.numpy())


@pytest.mark.parametrize("dtype", ["F64", "I32", "F8_E4M3"])
def test_factors_of_other_dtypes_are_refused(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "a", pair(), dtype)
    with pytest.raises(InputError, match=f"has dtype {dtype}, expected F32, BF16 or F16"):
        open_adapter(path)


def test_adapters_in_sub_directories_are_named(tmp_path: Path) -> None:
    write(tmp_path / "math", pair())
    write(tmp_path / "code", pair())
    with pytest.raises(InputError, match=r"2 in sub-directories; give one of them .'code', 'math'"):
        open_adapter(tmp_path)


def test_a_configuration_without_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapters.peft_config(2, 4, ["q"])))
    with pytest.raises(InputError, match=r"neither adapter_model.safetensors nor "):
        open_adapter(tmp_path)


def test_weights_without_a_configuration(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pair())
    (path / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config.json: no such file, which says"):
        open_adapter(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 1'])
def test_a_damaged_configuration(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a", pair())
    (path / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=r"adapter_config\.json: .*damaged"):
        open_adapter(path)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model.safetensors", adapters.model())
    assert not is_adapter(str(tmp_path))
    assert not is_adapter(str(tmp_path / "model.safetensors"))
    assert not is_adapter(str(tmp_path / "absent"))
