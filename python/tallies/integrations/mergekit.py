"""Run mergekit's merges on the kernels of this package.

``install()`` replaces functions of mergekit, below all of its commands and its Python interface.
mergekit still reads configurations and models, plans, and writes. Importing this module imports
neither mergekit nor torch.

``python -m tallies.integrations.mergekit CONFIG OUT`` runs ``mergekit-yaml`` so.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import TalliesError
from . import _mergekit_methods as methods
from . import _mergekit_runs as runs
from . import _mergekit_task_vectors as task_vectors
from ._seam import Host, Seam, Source

VERSIONS: Final = ("0.1.5",)
_METHODS: Final = "mergekit.merge_methods"
_GENERALIZED: Final = f"{_METHODS}.generalized_task_arithmetic"
_RAM_VECTORS: Final = Source(f"{_METHODS}.ram", "_prepare_ram_vectors", "0e35a6f73bf8fd0f")
_MASK: Final = Source(_GENERALIZED, "get_mask", "e3797685372d3de5")
COMMANDS: Final = {
    "mergekit-yaml": "mergekit.scripts.run_yaml",
    "mergekit-pytorch": "mergekit.scripts.merge_raw_pytorch",
    "mergekit-multi": "mergekit.scripts.multimerge",
    "mergekit-legacy": "mergekit.scripts.legacy",
    "mergekit-layershuffle": "mergekit.scripts.layershuffle",
    "bakllama": "mergekit.scripts.bakllama",
}
"""The commands of mergekit that merge, and the modules of their ``main``."""


def _of_method(
    module: str, name: str, digest: str, ours: Callable[..., Any], *copied: Source
) -> Seam:
    """Return the seam of the function inside a method's object."""
    return Seam(f"{_METHODS}.{module}", f"{name}.implementation", digest, ours, copied)


def _within_rounding(
    module: str, name: str, digest: str, ours: Callable[..., Any], **copied: str
) -> Seam:
    """Return such a seam of a method whose bits are not the host's."""
    home = f"{_METHODS}.{module}"
    sources = [Source(home, function, text) for function, text in copied.items()]
    return Seam(home, f"{name}.implementation", digest, ours, sources, exact=False)


_RUN: Final = "mergekit.merge.run_merge"

SEAMS: Final = (
    Seam(
        "mergekit.merge",
        "run_merge",
        "4456933bae68952d",
        runs.run_merge,
        (
            Source("mergekit.plan", "", "6a5324898140c530"),
            Source("mergekit.io.tensor_writer", "", "5448b8fc7e6e806f"),
            Source("mergekit.options", "MergeOptions", "a8da65845722df7c"),
        ),
        late=True,
    ),
    Seam(
        _GENERALIZED,
        "GeneralizedTaskArithmeticMerge.merge_group",
        "f343b538a111f4b2",
        task_vectors.merge_group,
        (_MASK, Source("mergekit.sparsify", "", "50be22e0bcf32fa2")),
    ),
    _of_method("nearswap", "nearswap_merge", "c43fd0fc930e16bd", methods.nearswap),
    _within_rounding(
        "arcee_fusion",
        "arcee_fusion_merge_method",
        "2d7324c4e1557142",
        methods.arcee_fusion,
        _compute_importance="c6f1f8091c2a8574",
    ),
    _of_method("linear", "linear_merge", "d7db573c3a6d3b74", methods.linear),
    _of_method("ram", "ram_merge", "75dfea95dd7cb6ef", methods.ram, _RAM_VECTORS),
    _of_method("ram", "ramplus_tl_merge", "ca2897b16f34464a", methods.ramplus_tl, _RAM_VECTORS),
    _within_rounding(
        "slerp", "slerp_merge_method", "ecfebebd3ed031ad", methods.slerp, slerp="11ffeca222d127d2"
    ),
    _within_rounding(
        "nuslerp",
        "nuslerp_merge_method",
        "5d58c2124953e3cb",
        methods.nuslerp,
        nuslerp="704f3b17f44fd8b2",
    ),
    _within_rounding("multislerp", "multislerp", "4f9ed3fd49307196", methods.multislerp),
    _within_rounding(
        "karcher",
        "karcher_merge_method",
        "d6f0295674b17b6e",
        methods.karcher,
        karcher_merge_tensors="ab0d6c3f3a6d2ab5",
    ),
    _within_rounding(
        "model_stock", "model_stock_merge_method", "8dffe68a23914ff8", methods.model_stock
    ),
    _within_rounding(
        "sce",
        "sce_merge",
        "bd79251142cbbc7a",
        methods.sce,
        sce_weight="bde86889f9f49512",
        sce_mask="9601742d1824c63c",
    ),
)
_HOST: Final = Host("mergekit", VERSIONS, lambda: SEAMS)

install = _HOST.install
uninstall = _HOST.uninstall
installed = _HOST.installed
calls = _HOST.calls


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of mergekit on the kernels of this package.

    Args:
        arguments: The command line; by default, that of the program.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tallies.integrations.mergekit",
        usage="%(prog)s [--inexact] [--force] [COMMAND] CONFIG OUT [mergekit's options]",
        description="Run a command of mergekit, mergekit-yaml by default, on tallies' kernels.",
        allow_abbrev=False,
        epilog=f"commands: {', '.join(COMMANDS)}",
    )
    parser.add_argument("--inexact", action="store_true", help="tallies throughout, rounded once")
    parser.add_argument("--force", action="store_true", help="also with an untested mergekit")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    command, *rest = options.rest or [""]
    if command not in COMMANDS:
        command, rest = "mergekit-yaml", options.rest
    try:
        with installed(exact=not options.inexact, force=options.force):
            entry = importlib.import_module(COMMANDS[command]).main
            try:
                entry(args=rest, prog_name=command)
            finally:
                if any(calls().values()) and not {"-q", "--quiet"} & {*rest}:
                    print(_told(calls()), file=sys.stderr)
    except TalliesError as error:
        print(f"tallies: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _told(counts: dict[str, int]) -> str:
    others = [f"{n} {reason}" for reason, n in counts.items() if reason != "ours"]
    handed = f", mergekit's own: {', '.join(others)}" if others else ""
    whole = calls(_RUN).get("ours", 0)
    done = f"{whole} runs as a whole, " if whole else ""
    return f"tallies: {done}{counts['ours'] - whole} tensors or batches merged{handed}"


if __name__ == "__main__":
    sys.exit(main())
