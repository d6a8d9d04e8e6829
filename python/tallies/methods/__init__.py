"""The merge methods, one file each."""

from __future__ import annotations

from ..errors import InputError
from ..messages import unknown
from ._method import Method
from .breadcrumbs import Breadcrumbs
from .breadcrumbs_ties import BreadcrumbsTies
from .codiemb import CoDiEmb
from .consensus_ta import ConsensusTa
from .consensus_ties import ConsensusTies
from .dare_linear import DareLinear
from .dare_ties import DareTies
from .della import Della
from .della_linear import DellaLinear
from .doge import Doge
from .emr import Emr
from .iso_c import IsoC
from .iso_cts import IsoCts
from .karcher import Karcher
from .linear import Linear
from .metagpt import MetaGpt
from .model_stock import ModelStock
from .multislerp import MultiSlerp
from .nuslerp import NuSlerp
from .pcb import Pcb
from .ram import Ram
from .ramplus import RamPlus
from .sce import Sce
from .slerp import Slerp
from .star import Star
from .task_arithmetic import TaskArithmetic
from .ties import Ties
from .tsv_m import TsvM
from .wudi import Wudi

_METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(Linear, TaskArithmetic, Ties, ConsensusTa, ConsensusTies),
        *(DareLinear, DareTies, Breadcrumbs, BreadcrumbsTies, Della, DellaLinear),
        *(Emr, Ram, RamPlus, Sce, Pcb),
        *(MetaGpt, ModelStock, Slerp, NuSlerp, MultiSlerp, Karcher, CoDiEmb),
        *(IsoC, IsoCts, TsvM, Star, Wudi, Doge),
    )
}


_ALIASES = {"ramplus_tl": "ramplus"}
"""Names that other tools give the same thing."""


def names() -> list[str]:
    """The names of all methods, simplest first."""
    return list(_METHODS)


def proper_name(name: object) -> object:
    """The name of ours for what another tool calls otherwise; anything else as it is."""
    return _ALIASES.get(name, name) if isinstance(name, str) else name


def get(name: str) -> type[Method]:
    """The method of this name; InputError with a suggestion when there is none."""
    try:
        return _METHODS[str(proper_name(name))]
    except KeyError:
        raise InputError(f"merge method {unknown(name, _METHODS)}") from None
