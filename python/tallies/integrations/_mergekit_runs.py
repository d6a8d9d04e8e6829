"""A whole run of mergekit: our engine streams the tensors, mergekit writes all that is beside them.

The host's own ``run_merge`` runs with three of its names bound to ours: the cache of loaders reads
nothing ahead, the planner plans as it does and then merges here, and the executor has nothing left
to execute. Configuration, card, tokenizer and other files are therefore mergekit's.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from ..errors import TalliesError
from ._mergekit_exact_runs import refuse_inexact, refuse_other_bits
from ._seam import HandOver, HostError, Original

if TYPE_CHECKING:
    from ..merging.plan import MergePlan
    from ..recipe.config import MergeConfig

REPLACED: Final = {
    "LoaderCache": "mergekit.io.tasks",
    "MergePlanner": "mergekit.plan",
    "Executor": "mergekit.graph",
}
"""The names of the host's module that a run binds to ours, and their homes."""

SHARD: Final = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
INDEX: Final = "model.safetensors.index.json"
NO_LIMIT: Final = 10**17


def run_merge(
    original: Original,
    merge_config: Any,
    out_path: str,
    options: Any,
    config_source: str | None = None,
) -> None:
    """Run a merge in place of ``mergekit.merge.run_merge``.

    Args:
        original: The host's function, and how close the result has to be.
        merge_config: The host's configuration.
        out_path: The directory of the result; files in it are written over.
        options: The host's options.
        config_source: The text of the configuration, for the card.

    Raises:
        HandOver: The host has to run this merge itself; nothing has been written.
        HostError: mergekit failed beside the tensors.
    """
    from ..hub.library import cached_in

    names = _names_of(original.host)
    _refuse_options(merge_config, options)
    cache = options.transformers_cache
    with contextlib.nullcontext() if cache is None else cached_in(cache):
        run = _Run(merge_config, Path(out_path), options, original.exact)
        try:
            _with_names(original.host, names, run)(
                merge_config, out_path, options, config_source=config_source
            )
        except HandOver:
            raise
        except Exception as error:
            raise HostError(error) from None
        finally:
            run.clear()


class _Run:
    """One merge: its plan, and the directory in OUT in which the tensors appear."""

    def __init__(self, config: Any, out: Path, options: Any, exact: bool) -> None:
        from ..merging.planning import plan

        self.options = options
        self._exact = exact
        self._dtype = config.out_dtype or config.dtype
        self.has_tokenizer = bool(config.tokenizer or config.tokenizer_source)
        self.request = _request(config, options)
        with _left_to_the_host():
            self.plan: MergePlan = plan(self.request)
        if not all(SHARD.fullmatch(shard.name) for shard in self.plan.shards):
            raise HandOver("names")
        if exact:
            refuse_inexact(self.plan, config, options)
        self._out = out
        self._staging: Path | None = None
        self._is_new = not out.exists()
        for one in (*(shard.name for shard in self.plan.shards), INDEX):
            if (out / one).is_dir():
                raise HandOver("place")

    def write(self, weights: Sequence[Any]) -> None:
        """Merge the tensors, and put them into the place of the result.

        Args:
            weights: The host's list of the weights of the result.
        """
        import torch

        from ..merging.checkpoints import merge

        names = [name for shard in self.plan.shards for name, _, _ in shard.tensors]
        refuse_missing(weights, names)
        if self._exact:
            refuse_other_bits(names, weights, self._dtype, self.plan)
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            self._staging = Path(tempfile.mkdtemp(prefix=".tallies-", dir=self._out))
        except OSError:
            raise HandOver("place") from None
        with _left_to_the_host():
            merge(
                self.request,
                self.merged,
                threads=self.options.num_threads or torch.get_num_threads(),
                device="cuda" if self.options.device != "cpu" else "cpu",
                progress=not self.options.quiet and sys.stderr.isatty(),
            )
        for file in sorted(self.merged.glob("*.safetensors*")):
            os.replace(file, self._out / file.name)
        self._is_new = False

    @property
    def merged(self) -> Path:
        """The directory that our merge writes."""
        if self._staging is None:
            raise HandOver("place")
        return self._staging / "merged"

    def tokenizer(self) -> Any:
        """Return the tokenizer of the result, where the configuration asks for one; else None."""
        if not self.has_tokenizer:
            return None
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            str(self.merged), trust_remote_code=self.options.trust_remote_code
        )

    def clear(self) -> None:
        """Remove the directory in OUT, and OUT where nothing has come into it."""
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            if self._is_new:
                with contextlib.suppress(OSError):
                    self._out.rmdir()


@contextlib.contextmanager
def _left_to_the_host() -> Iterator[None]:
    """Hand the run over where ours refuses it."""
    try:
        yield
    except TalliesError:
        raise HandOver("refused") from None


def _names_of(host: Any) -> Mapping[str, Any]:
    """Return the names that the host's function sees; HandOver where somebody changed ours."""
    import importlib

    if not isinstance(host, FunctionType):
        raise HandOver("replaced")
    names = host.__globals__
    for name, home in REPLACED.items():
        if names.get(name) is not getattr(importlib.import_module(home), name, None):
            raise HandOver("replaced")
    return names


def _with_names(host: Any, names: Mapping[str, Any], run: _Run) -> Any:
    """Return the host's function with loaders, planner and executor of ours."""

    class Loaders:
        """Sets the host's loaders up, and opens no model ahead."""

        def setup(self, options: Any) -> None:
            names["LoaderCache"]().setup(options=options)

        def get(self, model: Any) -> None:
            """Open nothing."""

    host_planner: Any = names["MergePlanner"]

    class Planner(host_planner):  # type: ignore[misc]
        """Plans as the host does, and merges here."""

        def plan_to_disk(self, out_path: str) -> list[Any]:
            super().plan_to_disk(out_path)
            run.write([weight for weight, _ in self._tensors])
            return []

    class Nothing:
        """Executes nothing; the tokenizer is that of the result."""

        def __init__(self, targets: Any, **places: Any) -> None:
            pass

        def run(self, **how: Any) -> Iterator[tuple[None, Any]]:
            from mergekit.tokenizer import TokenizerInfo

            if (tokenizer := run.tokenizer()) is not None:
                yield (
                    None,
                    TokenizerInfo(tokenizer=tokenizer, permutations={}, original_vocabs={}),
                )

    ours = {"LoaderCache": Loaders, "MergePlanner": Planner, "Executor": Nothing}
    bound = FunctionType(
        host.__code__, {**names, **ours}, host.__name__, host.__defaults__, host.__closure__
    )
    bound.__kwdefaults__ = host.__kwdefaults__
    return bound


def _refuse_options(config: Any, options: Any) -> None:
    """Hand over what only mergekit does: other formats and devices, and methods of a plug-in."""
    from mergekit import merge_methods

    # mergekit warns tensor by tensor of the rows that a truncation leaves out.
    if not options.safe_serialization or options.multi_gpu or options.unsafe_truncate_embeddings:
        raise HandOver("options")
    if options.device not in ("cpu", "cuda", "cuda:0", None):
        raise HandOver("device")
    try:
        method = merge_methods.get(config.merge_method)
    except RuntimeError:
        raise HandOver("method") from None
    function = getattr(method, "implementation", type(method))
    if not function.__module__.startswith("mergekit."):
        raise HandOver("method")


def _request(config: Any, options: Any) -> MergeConfig:
    """Return the host's configuration and options as a request to our engine."""
    import torch

    from ..recipe.config import MergeConfig
    from ..recipe.overrides import Overrides

    recipe = config.model_dump(exclude_defaults=True, mode="json", exclude={"chat_template"})
    if config.tokenizer is not None:
        recipe["tokenizer"]["source"] = config.tokenizer.model_dump(mode="json")["source"]
    seed = options.random_seed
    size = options.out_shard_size
    keys = {
        "semantics": "mergekit",
        "seed": (torch.initial_seed() if seed is None else seed) % 2**64,
        "max_shard_size": str(size if size > 0 else NO_LIMIT),
        "card": False,
        "architecture": "any" if options.allow_crimes else None,
    }
    with _left_to_the_host():
        return MergeConfig.load(recipe, Overrides(keys))


def refuse_missing(weights: Sequence[Any], names: Sequence[str]) -> None:
    """Hand over a result that lacks a tensor which mergekit's has.

    Args:
        weights: The host's list of the weights of the result.
        names: The tensors that ours writes: those of the files, which the host renames for some
            models of images.
    """
    for weight in weights:
        known = {weight.name, *(weight.aliases or ())}
        if not weight.optional and known.isdisjoint(names):
            raise HandOver("names")
