"""The keys of a recipe that say what is written, and beside which files."""

from __future__ import annotations

from ..sizes import parse_size
from ..spec.choices import AdapterSpace
from .fields import AdapterRank, AdapterSpaceWord, DtypeName, PathText, SizeText
from .vocabulary import VocabularyKeys


class OutputKeys(VocabularyKeys):
    """Keys about the files of a result."""

    dtype: DtypeName | None = None
    """The dtype of the result where ``out_dtype`` is missing, as in mergekit; sums are float32."""
    out_dtype: DtypeName | None = None
    files_from: PathText | None = None
    """The model whose configuration and tokenizer files are copied; by default the base."""
    copy_tokenizer: bool = True
    """Copy the files of a tokenizer with the other small files."""
    max_shard_size: SizeText = "5GB"
    adapter_rank: AdapterRank | None = None
    """The rank of the adapter to which adapters are merged, or ``full``; None merges models."""
    adapter_space: AdapterSpaceWord = AdapterSpace.FULL
    """The space in which what adapters do is merged to an adapter."""
    card: bool = True
    """Write ``README.md``, the model card, and ``mergekit_config.yml``."""

    @property
    def output_dtype(self) -> str | None:
        """The safetensors name of the result's dtype, or None for the dtype of each base tensor."""
        return self.out_dtype or self.dtype

    @property
    def max_shard_bytes(self) -> int:
        """Upper bound for the bytes of an output shard."""
        return parse_size(self.max_shard_size)
