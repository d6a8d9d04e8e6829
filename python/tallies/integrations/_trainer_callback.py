"""Merges the checkpoints that a trainer writes, while it trains."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import InputError
from ..merging.checkpoints import merge
from ..messages import unknown
from ._schedules import checkpoint_weights

_ADAPTER: Final = "adapter_config.json"
_OWN_OPTIONS: Final = ("config", "out", "overwrite")
_NOT_WEIGHTS: Final = (
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
)
"""Beginnings of the names of a trainer's own files, which no merge reads."""


class CheckpointMerger:
    """Merge the last checkpoints of a run, at its end or whenever one is saved.

    The weight files of the checkpoints are linked, not copied, so that ``save_total_limit`` of the
    trainer takes none of them away. A merge that fails is a warning, never the end of a training:
    the links stay in ``.checkpoints``.

    Args:
        schedule: The decay of the learning rate that the merge stands for: ``"constant"`` or
            ``"linear"`` (the mean), ``"1-sqrt"`` or ``"minus-sqrt"``, ``"exponential"``,
            ``"cosine"``. Train at a constant learning rate for them.
        last: The number of checkpoints to merge; fewer while there are not as many.
        at_every_checkpoint: Merge whenever a checkpoint is saved too, not only at the end.
        out: The directory of the result, in the trainer's ``output_dir`` unless it is absolute.
            Merges at checkpoints are its sub-directories ``checkpoint-STEP``, the one at the end is
            ``final``.
        recipe: A recipe that merges the result further, such as with the model before training.
            The model ``checkpoint`` in it stands for the result.
        options: Options of ``tallies.merge``, such as ``max_memory``.

    Raises:
        InputError: There is no such schedule or option, or ``last`` is no positive number.

    >>> CheckpointMerger("1-sqrt", last=4).weights(2)
    [0.7071067811865476, 0.2928932188134524]
    """

    def __init__(
        self,
        schedule: str = "constant",
        *,
        last: int = 5,
        at_every_checkpoint: bool = False,
        out: str | os.PathLike[str] = "merged",
        recipe: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        checkpoint_weights(schedule, 1)
        if not isinstance(last, int) or last < 1:
            raise InputError(f"last: found {last!r}, expected the number of checkpoints to merge")
        if recipe is not None and not isinstance(recipe, Mapping):
            raise InputError(f"recipe: found {recipe!r}, expected a mapping")
        known = inspect.signature(merge).parameters
        for name in options or ():
            if name not in known or name in _OWN_OPTIONS:
                others = [one for one in known if one not in _OWN_OPTIONS]
                raise InputError(f"options: {unknown(name, others)}")
        self._schedule, self._last = schedule, last
        self._at_every_checkpoint = at_every_checkpoint
        self._out = Path(out)
        self._recipe = recipe
        self._options = dict(options or {})

    def weights(self, n_checkpoints: int) -> list[float]:
        """Return the weights of so many checkpoints, the oldest first."""
        return checkpoint_weights(self._schedule, n_checkpoints)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the checkpoints of earlier runs; a run that goes on keeps those before it."""
        if state.is_world_process_zero:
            with _warning(self._directory(args)):
                _forget(self._directory(args), after=state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the checkpoint that the trainer saved, and merge if that is wanted now."""
        if not state.is_world_process_zero:
            return
        out = self._directory(args)
        name = f"checkpoint-{state.global_step}"
        with _warning(out):
            _forget(out, after=state.global_step)
            _keep(Path(args.output_dir) / name, _kept(out) / name)
            for old in _in_order(_kept(out))[: -self._last]:
                shutil.rmtree(old)
            if self._at_every_checkpoint:
                self._write(out, out / name)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Merge the checkpoints of the run."""
        if state.is_world_process_zero:
            out = self._directory(args)
            with _warning(out):
                self._write(out, out / "final")

    def _directory(self, args: Any) -> Path:
        return Path(args.output_dir) / self._out

    def _write(self, out: Path, target: Path) -> None:
        checkpoints = _in_order(_kept(out))
        if not checkpoints:
            raise InputError(
                "no checkpoint was saved; let the trainer save some (save_strategy, save_steps)"
            )
        weights = self.weights(len(checkpoints))
        request: dict[str, Any] = {
            "merge_method": "linear",
            "models": [
                {"model": str(path), "parameters": {"weight": weight}}
                for path, weight in zip(checkpoints, weights, strict=True)
            ],
        }
        if (checkpoints[-1] / _ADAPTER).is_file():
            request["adapter_rank"] = "full"
        if self._recipe is None:
            merge(request, target, overwrite=True, **self._options)
            return
        first = target.with_name(f".{target.name}-mean")
        try:
            merge(request, first, overwrite=True, **self._options)
            merge(_named(self._recipe, str(first)), target, overwrite=True, **self._options)
        finally:
            shutil.rmtree(first, ignore_errors=True)


@contextlib.contextmanager
def _warning(out: Path) -> Iterator[None]:
    """Warn of anything that fails in the block: no merge is worth a training."""
    try:
        yield
    except Exception as problem:
        warnings.warn(
            f"the checkpoints in {_kept(out)} were not merged: {problem or type(problem).__name__}",
            stacklevel=4,
        )


def _forget(out: Path, after: int) -> None:
    """Remove the links of checkpoints behind a step, which this run cannot have written."""
    for path in _in_order(_kept(out)):
        if int(path.name.rpartition("-")[2]) > after:
            shutil.rmtree(path)


def _kept(out: Path) -> Path:
    """Return the directory of the checkpoints whose files are linked."""
    return out / ".checkpoints"


def _in_order(directory: Path) -> list[Path]:
    """Return the checkpoints of a directory by their steps, ascending."""
    found = directory.glob("checkpoint-*") if directory.is_dir() else ()
    steps = {path: path.name.rpartition("-")[2] for path in found}
    return sorted((path for path in steps if steps[path].isdigit()), key=lambda p: int(steps[p]))


def _keep(checkpoint: Path, kept: Path) -> None:
    """Link the files of a checkpoint that make up its model; copy them where links cannot be."""
    if kept.exists():
        shutil.rmtree(kept)
    for file in _model_files(checkpoint):
        place = kept / file.relative_to(checkpoint)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copy2(file, place)


def _model_files(checkpoint: Path) -> Iterator[Path]:
    for file in sorted(checkpoint.rglob("*")):
        first = file.relative_to(checkpoint).parts[0]
        if file.is_file() and not first.startswith((*_NOT_WEIGHTS, "global_step")):
            yield file


def _named(value: Any, path: str) -> Any:
    """Return a recipe with a path in the place of the model ``checkpoint``."""
    if isinstance(value, Mapping):
        return {key: _named(one, path) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(one, path) for one in value]
    return path if value == "checkpoint" else value
