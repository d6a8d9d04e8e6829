"""Builds a mixture of experts of dense models on disk, piece by piece in bounded memory."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..checkpoint.destination import Destination
from ..checkpoint.files import copy_file, refuse_changed, stamps
from ..checkpoint.layout import Shard, index_files
from ..checkpoint.occupied import REPORT_NAME
from ..checkpoint.tensors import TensorInfo
from ..engine.bar import is_bar, with_progress
from ..engine.decoding import narrowed
from ..engine.environment import in_float_environment
from ..engine.limits import n_threads
from ..engine.usage import Advance, Progress, measure
from ..linalg.threads import Workers
from ..recipe.inputs import Inputs
from ..sizes import parse_size
from ..spec.dtypes import DTYPES
from .config import Request
from .finite import finite_chunks
from .gates import of_chance, of_statistics, statistics_names
from .plan import Gate, MoePlan, Output, plan_moe
from .report import MoeReport

RECIPE_NAME: Final = "mergekit_moe_config.yml"
"""The name that mergekit gives the request of a mixture, beside the result."""

_OTHER_BYTES: Final = 1 << 20


@with_progress("moe")
@in_float_environment
def build_moe(
    config: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    seed: int | None = None,
    threads: int | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    sync: bool = False,
    progress: Progress = None,
) -> MoeReport:
    """Build a mixture of experts of dense models, as mergekit-moe does.

    The weights of the experts are copied by bytes where the dtype stays, and rounded once where it
    changes. Attention, embeddings and norms are the base's. Threads change no byte of the result.

    Args:
        config: A file in mergekit-moe's format, a mapping, or the ``tallies.json`` of a mixture.
        out: The directory to create.
        seed: The seed of random gates, in the place of the request's.
        threads: Number of threads; None for all cores.
        max_shard_size: Upper bound for the tensors of an output shard.
        overwrite: Replace an earlier result.
        sync: Flush the files to disk before the directory appears.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes written so far and the bytes to write in all.

    Returns:
        The report that is also in the directory's ``tallies.json``.

    Raises:
        InputError: The request or an input is wrong; before anything is written to ``out``.
        StorageError: Reading or writing fails.

    >>> build_moe("moe.yml", "mixture").layout  # doctest: +SKIP
    'mixtral'
    """
    start = time.perf_counter()
    made = _planned(Request.load(config, seed=seed), bars=is_bar(progress))
    shards = made.shards(parse_size(max_shard_size))
    text = made.config_text
    destination = Destination(out, made.input_roots(), overwrite)
    n_bytes = sum(len(shard.header()[0]) + shard.n_bytes for shard in shards)
    destination.check_space(n_bytes + _OTHER_BYTES)
    before = stamps(made.input_files())
    advance, workers = Advance(progress, n_bytes), n_threads(threads)
    with destination.writing(resume=False, sync=sync) as directory:
        for name, at in made.files.items():
            copy_file(at, directory / name)
        (directory / "config.json").write_bytes(text)
        _write(made, shards, directory, workers, advance)
        for name, index in index_files(shards).items():
            (directory / name).write_bytes(index)
        recipe = made.request.restated(destination.path)
        (directory / RECIPE_NAME).write_text(_yaml(recipe), encoding="utf-8")
        refuse_changed(before)
        report = _report(made, shards, directory, destination.path, recipe, start, workers)
        (directory / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    advance.finish()
    return report


def _planned(request: Request, *, bars: bool) -> MoePlan:
    places, config = request.places, request.config
    pinned = {text: places.pinned(text) for text in config.texts}
    experts = [_with_commit(one, pinned) for one in config.experts]
    shared = config.shared_experts and [_with_commit(one, pinned) for one in config.shared_experts]
    changes = {
        "base_model": pinned[config.base_model],
        "experts": tuple(experts),
        "shared_experts": shared and tuple(shared),
    }
    request = replace(request, config=config.model_copy(update=changes))
    inputs = Inputs(places, request.config.texts)
    inputs.fetch_opaque(bars=bars)
    with inputs.named():
        made = plan_moe(request, inputs)
    if inputs.fetch(bars=bars):
        made = plan_moe(request, inputs)
    return made


def _with_commit(expert: Any, pinned: Mapping[str, str]) -> Any:
    return expert.model_copy(update={"source_model": pinned[expert.source_model]})


def _yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def _write(
    made: MoePlan, shards: Iterable[Shard], directory: Path, n_workers: int, advance: Advance
) -> None:
    """Write the tensor files, each tensor by one thread; the first error ends the others."""
    lock = threading.Lock()
    errors: list[Exception] = []

    def write(name: str, place: TensorInfo) -> None:
        try:
            with open(place.path, "r+b", buffering=0) as file:
                file.seek(place.offset)
                for data in _data(made, made.outputs[name]):
                    if errors:
                        return
                    file.write(data)
                    with lock:
                        advance(len(data))
        except Exception as error:
            errors.append(error)

    places: dict[str, TensorInfo] = {}
    for shard in shards:
        head, _ = shard.header()
        with open(directory / shard.name, "wb") as file:
            file.write(head)
            file.truncate(len(head) + shard.n_bytes)
        places |= shard.places(directory)
    with Workers(n_workers) as pool:
        list(pool.map(write, places, places.values()))
    if errors:
        raise errors[0]


def _data(made: MoePlan, output: Output) -> Iterator[bytes | bytearray]:
    """Yield the bytes of a tensor of the result, in order."""
    name, dtype, shape = output.entry
    if output.gate is not None:
        yield from _gate(made, output.gate, dtype)
    elif output.pieces:
        for info, factor in output.pieces:
            yield from finite_chunks(name, info, dtype, factor)
    else:
        yield bytes(shape[0] * DTYPES[dtype])


def _gate(made: MoePlan, gate: Gate, dtype: str) -> Iterator[bytes | bytearray]:
    import numpy as np

    config, n_shared = made.request.config, made.n_shared_gates
    if made.statistics is not None:
        names = statistics_names(made.n_layers, made.n_experts, n_shared)[gate.layer]
        rows = of_statistics(made.statistics, names)
    else:
        rows = of_chance(
            config.seed,
            gate.layer,
            made.n_experts + n_shared,
            made.hidden,
            uniform=config.gate_mode == "uniform_random",
        )
    own = rows[made.n_experts :] if gate.is_shared else rows[: made.n_experts]
    data = np.ascontiguousarray(own).tobytes()
    yield data if dtype == "F32" else narrowed(data, dtype)


def _report(
    made: MoePlan,
    shards: Iterable[Shard],
    directory: Path,
    path: Path,
    recipe: dict[str, Any],
    start: float,
    threads: int,
) -> MoeReport:
    files = {one.name: (directory / one.name).stat().st_size for one in shards}
    found = {one.relative_to(directory).as_posix() for one in directory.rglob("*") if one.is_file()}
    n_read = sum(info.n_bytes for one in made.outputs.values() for info, _ in one.pieces)
    return MoeReport(
        path=str(path),
        recipe=recipe,
        layout=made.layout.name,
        n_layers=made.n_layers,
        n_experts=made.n_experts,
        gates=made.request.config.gate_mode,
        dtypes=dict(Counter(one.entry[1] for one in made.outputs.values()).most_common()),
        files=files,
        other_files=sorted(found - files.keys()),
        warnings=list(made.warnings),
        **measure(start, n_read, sum(files.values()), threads),
    )
