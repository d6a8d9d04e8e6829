"""mergekit in this process, with its own warnings left to itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def as_mergekit() -> Iterator[None]:
    """Let mergekit and what it calls warn and log as they like."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def merge(config: Mapping[str, Any], out: Path, **options: Any) -> None:
    """Run a recipe with mergekit; its exceptions are its own."""
    with as_mergekit():
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        parsed = MergeConfiguration.model_validate(config)
        run_merge(parsed, str(out), options=MergeOptions(quiet=True, **options))


def build_mixture(config: Mapping[str, Any], out: Path) -> None:
    """Build a mixture of experts with mergekit-moe."""
    with as_mergekit():
        from mergekit.moe.config import MoEMergeConfig
        from mergekit.options import MergeOptions
        from mergekit.scripts.moe import build

        build(MoEMergeConfig.model_validate(config), str(out), MergeOptions(quiet=True))
