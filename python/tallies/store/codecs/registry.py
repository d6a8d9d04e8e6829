"""The codecs by name."""

from __future__ import annotations

from ...errors import InputError
from ...messages import unknown
from ._codec import Codec
from .bitdelta import BitDelta
from .emr import Emr
from .magnitude import Magnitude
from .sparse import Sparse
from .tall import Tall
from .tsv_c import TsvC
from .twin import Twin

_CODECS: dict[str, type[Codec]] = {
    codec.name: codec for codec in (Tall, Emr, Magnitude, Sparse, BitDelta, TsvC, Twin)
}


def names() -> list[str]:
    """The names of all codecs."""
    return list(_CODECS)


def get(name: str) -> type[Codec]:
    """The codec of this name; InputError with a suggestion if there is none."""
    if name not in _CODECS:
        raise InputError(f"codec {unknown(name, _CODECS)}")
    return _CODECS[name]
