"""The names of the layers of a UNet: those of diffusers, and those of the original files.

Stable Diffusion 1, 2 and XL count the layers of all blocks on end in ``input_blocks`` and
``output_blocks``; diffusers names the blocks and their layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_PER_BLOCK: Final = 3
"""Entries of a block: two residual layers and a sampler on the way down, three layers on the way
up."""

_OUTSIDE: Final[Mapping[str, str]] = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_MIDDLE: Final[Mapping[str, str]] = {
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESNET: Final[Mapping[str, str]] = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_RESNET_BACK: Final = {new: old for old, new in _RESNET.items()}
_WHOLE: Final = {new: old for old, new in (*_OUTSIDE.items(), *_MIDDLE.items())}

_ORIGINAL: Final = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)\Z")
_PLAIN: Final = re.compile(r"(op|conv)\.(weight|bias)\Z")


def diffusers_name(original: str) -> str | None:
    """Return the name that diffusers gives a tensor of an original UNet; None for other tensors.

    >>> diffusers_name("input_blocks.4.1.proj_in.weight")
    'down_blocks.1.attentions.0.proj_in.weight'
    >>> diffusers_name("output_blocks.2.1.conv.weight")
    'up_blocks.0.upsamplers.0.conv.weight'
    """
    for prefix, new in _WHOLE.items():
        if original.startswith(f"{prefix}."):
            rest = original.removeprefix(f"{prefix}.")
            return f"{new}.{_of_resnet(rest) if '.resnets.' in new else rest}"
    found = _ORIGINAL.match(original)
    if found is None:
        return None
    way, number, inner, rest = found[1], int(found[2]), int(found[3]), found[4]
    block, layer = divmod(number - 1 if way == "input" else number, _PER_BLOCK)
    name = f"{'down' if way == 'input' else 'up'}_blocks.{block}"
    if _PLAIN.match(rest):
        sampler = "downsamplers" if way == "input" else "upsamplers"
        return f"{name}.{sampler}.0.conv.{rest.rpartition('.')[2]}"
    if inner == 0:
        return f"{name}.resnets.{layer}.{_of_resnet(rest)}"
    return f"{name}.attentions.{layer}.{rest}"


def original_names(name: str) -> list[str]:
    """Return the names that an original file may give a tensor of a UNet of diffusers.

    >>> original_names("down_blocks.1.attentions.0.proj_in.weight")
    ['input_blocks.4.1.proj_in.weight']
    >>> original_names("up_blocks.0.upsamplers.0.conv.weight")
    ['output_blocks.2.1.conv.weight', 'output_blocks.2.2.conv.weight']
    """
    for new, prefix in (*_OUTSIDE.items(), *_MIDDLE.items()):
        if name.startswith(f"{new}."):
            rest = name.removeprefix(f"{new}.")
            return [f"{prefix}.{_to_resnet(rest) if '.resnets.' in new else rest}"]
    parts = name.split(".", 4)
    if len(parts) < 5 or not (parts[1].isdigit() and parts[3].isdigit()):
        return []
    way, block, kind, layer, rest = parts[0], int(parts[1]), parts[2], int(parts[3]), parts[4]
    last = rest.rpartition(".")[2]
    if way == "down_blocks":
        begin = f"input_blocks.{_PER_BLOCK * block + 1 + layer}"
        if kind == "downsamplers":
            return [f"input_blocks.{_PER_BLOCK * (block + 1)}.0.op.{last}"]
    elif way == "up_blocks":
        begin = f"output_blocks.{_PER_BLOCK * block + layer}"
        if kind == "upsamplers":
            # The sampler stands behind the attention of its layer, if there is one.
            at = f"output_blocks.{_PER_BLOCK * block + 2}"
            return [f"{at}.{inner}.conv.{last}" for inner in (1, 2)]
    else:
        return []
    if kind == "resnets":
        return [f"{begin}.0.{_to_resnet(rest)}"]
    return [f"{begin}.1.{rest}"] if kind == "attentions" else []


def _of_resnet(rest: str) -> str:
    head, _, parameter = rest.rpartition(".")
    return f"{_RESNET_BACK.get(head, head)}.{parameter}"


def _to_resnet(rest: str) -> str:
    head, _, parameter = rest.rpartition(".")
    return f"{_RESNET.get(head, head)}.{parameter}"
