"""The keys of a recipe that say what is written, and beside which files."""

from __future__ import annotations

from ..sizes import parse_size
from ..spec.choices import AdapterSpace
from .fields import adapter_rank, dtype_name, flag, optional, path_text, size_text, word
from .record import checked_by
from .vocabulary import VocabularyKeys


class OutputKeys(VocabularyKeys):
    """Keys about the files of a result."""

    dtype: str | None = checked_by(optional(dtype_name), None)
    """The dtype of the result where ``out_dtype`` is missing, as in mergekit; sums are float32."""
    out_dtype: str | None = checked_by(optional(dtype_name), None)
    files_from: str | None = checked_by(optional(path_text), None)
    """The model whose configuration and tokenizer files are copied; by default the base."""
    copy_tokenizer: bool = checked_by(flag, True)
    """Copy the files of a tokenizer with the other small files."""
    max_shard_size: str | int = checked_by(size_text, "5GB")
    adapter_rank: int | str | None = checked_by(optional(adapter_rank), None)
    """The rank of the adapter to which adapters are merged, or ``full``; None merges models."""
    adapter_space: AdapterSpace = checked_by(word(AdapterSpace), AdapterSpace.FULL)
    """The space in which what adapters do is merged to an adapter."""
    card: bool = checked_by(flag, True)
    """Write ``README.md``, the model card, and ``mergekit_config.yml``."""

    @property
    def output_dtype(self) -> str | None:
        """The safetensors name of the result's dtype, or None for the dtype of each base tensor."""
        return self.out_dtype or self.dtype

    @property
    def max_shard_bytes(self) -> int:
        """Upper bound for the bytes of an output shard."""
        return parse_size(self.max_shard_size)
