"""The common facts of methods that merge the singular directions of matrices."""

from __future__ import annotations

from collections.abc import Sequence

from ..linalg import spectral
from ..spec.choices import FUSIONBENCH, PAPER
from ._matrix import MatrixMethod, Tensor, an_exclude

Triplets = tuple[Tensor, Tensor, Tensor]
"""U, s and V^T of a product U diag(s) V^T."""


class SingularMethod(MatrixMethod):
    """A method published for CLIP models; the published code excludes the projection of texts."""

    semantics = (PAPER, FUSIONBENCH)

    exclude = an_exclude("text_projection", by_semantics={FUSIONBENCH: ""})


def orthogonal(parts: Sequence[Triplets]) -> tuple[Tensor, Tensor]:
    """Return the polar factors of all left vectors side by side, and of all right vectors."""
    import torch

    u, _ = spectral.polar(torch.cat([part[0] for part in parts], 1))
    v, _ = spectral.polar(torch.cat([part[2] for part in parts]))
    return u, v
