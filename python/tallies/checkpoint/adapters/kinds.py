"""Recognise adapters by the names of their tensors, whatever their files are called.

An adapter changes a model by factors, such as the product of LoRA's two matrices. The sum of two
products is not the product of two sums, so that factors cannot be merged as weights are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from ...errors import InputError
from ...messages import show
from ..builds import ADAPTER_STEMS
from ..checkpoint import Checkpoint
from ..tensors import TensorInfo

_KINDS: Final[Mapping[str, str]] = {
    "LoRA": (
        r"lora_(?:[ABE]|embedding_[AB]|magnitude_vector|ranknum|down|up|mid)"
        r"|(?:\w*_)?lora(?:_linear_layer)?\.(?:down|up|mid|[AB])|dora_scale"
    ),
    "LoHa": r"hada_[wt]\d(?:_[ab])?",
    "LoKr": r"lokr_[wt]\d(?:_[ab])?",
    "IA3": r"ia3_l",
    "OFT or BOFT": r"oft_(?:[rRs]|blocks|diag)|boft_[RSs]",
    "VeRA": r"p?vera_lambda_[bd]|vera_[AB]",
    "prompt tuning": r"prompt_embeddings|adaption_(?:prompt|gate)",
    "PEFT": (
        r"(?:rand|gra|de|tiny|poly_)lora_(?:A|B|P|lambda|gamma)|hira_[AB]|vblora_\w+|unilora_\w+"
        r"|bone_block|miss_block|hra_u|c3a_kernel|shira_weight|(?:fourier|wave)ft_spectrum"
        r"|road_(?:theta|alpha)|trainable_tokens_(?:delta|original)"
    ),
}
"""Names of the tensors of each kind: a whole component of the dotted name."""

_MARKS: Final = (
    *("lora", "dora_", "hada_", "lokr_", "ia3_", "oft_", "vera_", "hira_", "prompt_embeddings"),
    *("adaption_", "bone_", "miss_", "hra_", "c3a_", "shira_", "ft_spectrum", "road_"),
    *("trainable_tokens_", "base_model.", "lycoris_"),
)
"""Pieces of which one is in every such name; they are looked for first, since that is quick."""

_PATTERNS: Final = {
    kind: re.compile(rf"(?:\A|\.)(?:{names})(?=\.|\Z)") for kind, names in _KINDS.items()
}

_SAVED_BY_PEFT: Final = re.compile(
    r"\Abase_model\.(?:.*\.)?(?:adamss|beft|bone|c3a|cartridge|deft|frod|lily|ln_tuning|miss|osf_svd"
    r"|peanut|psoft|road|shadow|supertuning|xlora)_"
)
"""Names that tell only in a file of PEFT, since they might be those of a model's own tensors."""

_IN_KOHYAS_SPELLING: Final = {
    kind: re.compile(rf"\A(?:lora|lycoris)_\w+\.(?:{names})\Z")
    for kind, names in {
        "differences of weights": "diff|diff_b|w_norm|b_norm",
        "GLoRA": r"[ab][12]\.weight|bm[12]\.weight",
        "IA3": "on_input",
    }.items()
}
"""Names that tell only behind a module in kohya's spelling, since a model's might be the same."""

_PLACE: Final = re.compile(r"\.(?:lora|hada|lokr|ia3|oft|boft|vera|dora)[_.].*\Z")
"""The rest of a piece's name, after that of the module it changes."""

_DIFFERENCES: Final = (".diff", ".diff_b")

_BESIDE_FACTORS: Final = re.compile(r"\.(?:alpha|diff|diff_b|scale)\Z")

_WAY_OUT: Final = (
    "merge it into its base model first (PEFT: merge_and_unload, then save_pretrained; diffusers: "
    "fuse_lora): factors merged one by one are not the merge of what they do"
)


@dataclass(frozen=True)
class Adapter:
    """The adapter that a checkpoint is, or holds."""

    kind: str
    """Such as ``LoRA``; nothing where only the file's name tells."""
    tensor: TensorInfo | None
    """The first tensor that tells."""
    in_a_model: bool
    """The model that the adapter changes stands in the same files."""

    def __str__(self) -> str:
        kind = self.kind or "by the name of its file"
        if self.tensor is None:
            return kind
        where = "beside the model it changes, not merged into it" if self.in_a_model else "factors"
        return f"{kind}: {where}, such as {show(self.tensor.name)}"


def find_adapter(checkpoint: Checkpoint) -> Adapter | None:
    """Find the adapter that a checkpoint is, or holds; None for a model."""
    tensors = checkpoint.tensors
    found = [name for name in tensors if kind_of_piece(name)] if may_be_pieces(tensors) else []
    if found:
        pieces = {*found, *filter(_BESIDE_FACTORS.search, tensors)}
        changed = {_PLACE.sub("", name) for name in found}
        # A whole model has more weights than the adapter changes; an adapter may save a few.
        in_a_model = len(tensors) - len(pieces) > len(changed)
        return Adapter(kind_of_piece(found[0]), tensors[found[0]], in_a_model)
    differences = [name for name in tensors if name.endswith(_DIFFERENCES)]
    if differences and all(map(_BESIDE_FACTORS.search, tensors)):
        return Adapter("differences of weights", tensors[differences[0]], False)
    if any(part.stem in ADAPTER_STEMS for part in checkpoint.parts):
        return Adapter("", None, False)
    return None


def may_be_pieces(names: Collection[str]) -> bool:
    """Return False if no tensor of these names can be a piece of an adapter; this is quick."""
    text = "\n".join(names)
    return any(mark in text for mark in _MARKS) or any(n.endswith(_DIFFERENCES) for n in names)


def kind_of(adapter: Adapter | None) -> str:
    """Return what a checkpoint is, in a word, by the adapter that was found in it."""
    return "checkpoint" if adapter is None or adapter.in_a_model else "adapter"


def kind_of_piece(name: str) -> str:
    """Return the kind of adapter that a tensor of this name is a piece of; nothing for others."""
    for kind, pattern in _PATTERNS.items():
        if pattern.search(name):
            return kind
    for kind, pattern in _IN_KOHYAS_SPELLING.items():
        if pattern.match(name):
            return kind
    return "PEFT" if _SAVED_BY_PEFT.match(name) else ""


def refuse_adapter(checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` for an adapter, and for a model with one that is not merged into it."""
    adapter = find_adapter(checkpoint)
    if adapter is None:
        return
    if adapter.tensor is None:
        raise InputError(f"{checkpoint.path}: is an adapter, expected a model; {_WAY_OUT}")
    tensor = f"tensor {show(adapter.tensor.name)} is a piece of an adapter ({adapter.kind})"
    if adapter.in_a_model:
        raise InputError(
            f"{adapter.tensor.path}: holds a model and an adapter that is not merged into it: "
            f"{tensor}; {_WAY_OUT}"
        )
    raise InputError(
        f"{adapter.tensor.path}: is an adapter, expected a model: {tensor}; {_WAY_OUT}"
    )
