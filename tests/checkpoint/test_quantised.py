"""Quantised weights are refused, and plain weights that resemble them are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallies.checkpoint.opening import open_model
from tallies.checkpoint.quantised import refuse_quantised
from tallies.errors import InputError
from tests.support.entries import write, write_model
from tests.support.handmade import write_index


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("a.weight", "a.input_scale"),
        ("a.weight", "a.scale_weight"),
        ("a.weight", "a.scale"),
    ],
)
def test_scales_of_other_names_are_refused_across_shards(
    tmp_path: Path, dtype: str, name: str, scale: str
) -> None:
    write(tmp_path / "1.safetensors", [(name, dtype, (2, 2)), ("b.weight", dtype, (1,))])
    write(tmp_path / "2.safetensors", [(scale, "F32", (1,))])
    places = {name: "1.safetensors", "b.weight": "1.safetensors", scale: "2.safetensors"}
    write_index(tmp_path, places)
    with pytest.raises(InputError) as caught:
        open_model(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path / '1.safetensors'}: tensor {name!r} is {dtype} with a scale tensor {scale!r}; "
        "scales of this name are not supported; dequantise the checkpoint to BF16 first"
    )


def test_plain_fp8_passes_unless_configured(tmp_path: Path) -> None:
    tensors = [
        ("a.weight", "F8_E4M3", (2,)),
        ("norm.scale", "F32", (2,)),
        ("b", "F32", ()),
        ("b_scale", "F32", ()),
    ]
    write_model(tmp_path, tensors)
    open_model(str(tmp_path))
    write_model(tmp_path, tensors, {"quantization_config": None})
    open_model(str(tmp_path))
    write_model(tmp_path, tensors, {"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(InputError, match=r"a\.weight.*with a quantization_config \('fp8'\)"):
        open_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("h.0.q.SCB", "bitsandbytes"),
        ("h.0.q.weight.absmax", "bitsandbytes"),
        ("h.0.q.weight.nested_quant_map", "bitsandbytes"),
        ("h.0.q.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("h.0.q.qweight", "GPTQ or AWQ"),
        ("h.0.q.qzeros", "GPTQ or AWQ"),
        ("h.0.q.weight_packed", "compressed-tensors"),
    ],
)
def test_quantised_names_are_refused(tmp_path: Path, name: str, tool: str) -> None:
    checkpoint = write_model(tmp_path, [("a.weight", "F16", (2,)), (name, "I32", (2,))])
    with pytest.raises(InputError, match=rf"tensor '{name}' was written by {tool}; .*original"):
        refuse_quantised(checkpoint)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("a.weight", "a.weight_scale"),
        ("a.down_proj_blocks", "a.down_proj_scales"),
        ("a.weight", "a.scales"),
    ],
)
def test_scaled_bytes_are_refused(tmp_path: Path, name: str, scale: str) -> None:
    for dtype in ("I8", "U8"):
        checkpoint = write_model(tmp_path, [(name, dtype, (2,)), (scale, "U8", (1,))])
        with pytest.raises(
            InputError, match=f"'{name}' is {dtype} with the scale tensor '{scale}'"
        ):
            refuse_quantised(checkpoint)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config \('gptq'\)"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, r"quantization_config \(None\)"),
        ({"compression_config": "x"}, r"compression_config \('x'\)"),
    ],
)
def test_quantised_configuration_is_refused(tmp_path: Path, config: object, found: str) -> None:
    checkpoint = write_model(tmp_path, [("a.weight", "F16", (2,))], config)
    with pytest.raises(InputError, match=rf"config\.json: has a {found}; .* or remove the key"):
        refuse_quantised(checkpoint)


@pytest.mark.parametrize(
    ("method", "way_out"),
    [
        ("mxfp4", r"Mxfp4Config\(dequantize=True\)"),
        ("bitsandbytes", r"model\.dequantize\(\)"),
        ("compressed-tensors", r"CompressedTensorsConfig\(dequantize=True\)"),
        ("gptq", r"merge the original \(bf16, fp16, fp32\) checkpoint, or remove the key"),
    ],
)
def test_way_out_of_a_quantisation(tmp_path: Path, method: str, way_out: str) -> None:
    config = {"quantization_config": {"quant_method": method}}
    checkpoint = write_model(tmp_path, [("a.weight", "F16", (2,))], config)
    with pytest.raises(InputError, match=way_out):
        refuse_quantised(checkpoint)


def test_packed_weights_of_mlx_are_named(tmp_path: Path) -> None:
    tensors = [("a.weight", "U32", (2,)), ("a.scales", "BF16", (1,)), ("a.biases", "BF16", (1,))]
    with pytest.raises(InputError, match=r"U32 with the scale tensor 'a\.scales', as MLX writes"):
        refuse_quantised(write_model(tmp_path, tensors))


def test_plain_weights_are_not_quantised(tmp_path: Path) -> None:
    tensors = [
        ("a.weight", "BF16", (2,)),
        ("a.weight_scale", "BF16", (1,)),
        ("mask", "U8", (2,)),
        ("scale", "F32", (1,)),
        ("x.mask", "I8", (2,)),
        ("x.scale", "F32", (1,)),
        ("absmax", "F32", (1,)),
    ]
    config: dict[str, object] = {
        "quantization_config": None,
        "text_config": {"quantization_config": {}},
    }
    refuse_quantised(write_model(tmp_path, tensors, config))
