"""Explains the plan of a merge to a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..checkpoint.checkpoint import Checkpoint
from ..engine.limits import least_bytes, n_threads
from ..messages import counted, headline, labelled, some, warned
from ..methods._matrix import MatrixMethod
from ..sizes import format_size
from ..spec.rules import Gate
from . import facts
from .adapters import adapters_of, tokenizers_of_adapters
from .matrices import in_words, matrix_counts
from .values import by_layer, layers_in_words, listed, modified, stacks
from .vocabulary_words import in_words as in_words_of_tokens

if TYPE_CHECKING:
    from .plan import MergePlan

RATE = 10**9
"""The bytes a second of the disk for which a time is stated."""

# Peaks of merges of 0.3 GB: 42 to 48 MB in one and two threads, 50 to 57 MB in eight; 290 MB with
# torch loaded, before the first matrix.
_PROGRAM_BYTES = 45_000_000
_THREAD_BYTES = 1_500_000
_PROGRAM_WITH_TORCH_BYTES = 290_000_000


def explain(
    made: MergePlan,
    *,
    max_bytes: int = 2**30,
    threads: int | None = None,
    out: str | None = None,
    screen: int | None = None,
) -> str:
    """Return what a merge would do, as text.

    Args:
        made: The plan of the merge.
        max_bytes: Upper bound for buffers.
        threads: Number of threads; None for all cores.
        out: The output, where it is known.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    rows = [*_request(made), *_tensors(made), *_cost(made, out, max_bytes, n_threads(threads))]
    config = made.config
    stages = [
        f"stage {name}: {explain(one, max_bytes=max_bytes, threads=threads, screen=screen)}"
        for name, one in made.stages
    ]
    lines = [
        *stages,
        headline(config.merge_method, config.semantics, len(made.experts)),
        *(labelled(label, text, screen) for label, text in rows),
        *(warned(warning, screen) for warning in made.warnings),
    ]
    return "\n".join(lines)


def _request(made: MergePlan) -> Iterator[tuple[str, str]]:
    if made.has_base:
        yield (
            "base",
            ": ".join(
                filter(None, (facts.template_name(made), ", ".join(facts.layers_of_base(made))))
            ),
        )
        yield from _adapters(made, facts.template_name(made), made.template)
    for number, name in enumerate(facts.names(made)):
        own = [*facts.layers_of(made, number), listed(facts.model_parameters(made, number))]
        said = ", ".join(filter(None, own))
        yield "model", f"{name}: {said}" if said else name
        yield from _adapters(made, name, made.experts[number])
    yield "parameters", listed(facts.shared_parameters(made))
    for key, value in facts.modifiers(made).items():
        yield "", modified(key, value)
    yield "settings", listed(facts.settings(made))


def _adapters(made: MergePlan, text: str, model: Checkpoint) -> Iterator[tuple[str, str]]:
    for adapter in adapters_of(made, text, model):
        yield "adapter", str(adapter)


def _tensors(made: MergePlan) -> Iterator[tuple[str, str]]:
    match = made.match
    yield (
        "tensors",
        f"{len(match.merged)} merged ({made.n_parameters:,} parameters), "
        f"{len(match.copied)} copied, {len(match.tied)} tied",
    )
    if (counts := matrix_counts(made)) is not None:
        yield "matrices", in_words(counts)
    if made.vocabulary is not None:
        yield "vocabulary", in_words_of_tokens(made.vocabulary.to_json_dict())
    for path in made.given:
        names = [n for n in match.copied if str(made.template.tensors[n].path) == path]
        yield "given", f"{some(names)} from {path}"
    if match.buffers:
        yield "buffers", f"{len(match.buffers)} as in the base: {some(match.buffers)}"
    for model, lacking in facts.by_expert(made, match.missing).items():
        yield "missing", f"{model} takes {len(lacking)} from the base: {some(lacking)}"
    for model, beside in facts.by_expert(made, match.dropped).items():
        yield "dropped", f"{len(beside)} of {model}: {some(beside)}"
    yield (
        "dtypes",
        f"{', '.join(f'{n} {dtype}' for dtype, n in facts.dtypes(made).items())}; sums are float32",
    )
    found = stacks(by_layer(dict.fromkeys(facts.layered(made), "")))
    layers = [f"{len(held)} of {stack or 'the model'}" for stack, held in found.items()]
    yield "layers", ", ".join(layers) or "none found in the names"
    for title, values in facts.varying(made).items():
        for number, line in enumerate(layers_in_words(by_layer(values))):
            yield "" if number else "by layer", f"{title}: {line}" if not number else line


def passes_in_words(made: MergePlan) -> list[str]:
    """Return the passes over the data, in words."""
    first = ["survey of layers"] if made.modifiers.drop_layers else []
    first += ["survey of norms"] if made.modifiers.needs_norms else []
    if issubclass(made.config.method, MatrixMethod):
        if made.rule.gate is Gate.MAGNITUDE:
            first.append("survey of all matrices together")
        return [*first, "matrices, one at a time, and combine of the other tensors"]
    if made.survey is None:
        return [*first, "combine"]
    n_passes = made.survey.n_passes - all(map(made.survey.spares, made.parameters.values()))
    surveys = [made.survey.title, "second survey"][:n_passes]
    surveys = ["sample"] if made.guesses and n_passes else surveys
    if made.survey.of_model:
        return [*first, *(f"{one}, all tensors together" for one in surveys), "combine"]
    return [*first, f"{', '.join(surveys)} and combine, tensor by tensor"]


def _cost(
    made: MergePlan, out: str | None, max_bytes: int, threads: int
) -> Iterator[tuple[str, str]]:
    for model, paths in facts.left_out(made).items():
        for path, why in paths.items():
            yield "left out", f"{path} of {model}: {why}"
    for download in made.downloads:
        yield "downloads", str(download)
    yield "passes", "; ".join(made.passes())
    copied = ""
    if made.config.method.copies_alone and made.match.copied:
        n_bytes = sum(made.template.tensors[name].n_bytes for name in made.match.copied)
        copied = f", and copies {format_size(n_bytes)} as they are"
    yield "reads", format_size(made.bytes_read) + copied
    names = [shard.name for shard in made.shards]
    shown = names if len(names) <= 3 else [names[0], "...", names[-1]]
    where = "" if out is None else f" to {out}"
    written = f"{format_size(made.bytes_written)} in {counted(len(names), 'file')}"
    yield "writes", f"{written}{where}: {', '.join(shown)}"
    if small := [str(path) for path in made.auxiliary.paths]:
        of_adapters = "".join(f"; {one}" for one in tokenizers_of_adapters(made.donor))
        yield "copies", f"{', '.join(small)} from {facts.donor_name(made)}{of_adapters}"
    yield "memory", _memory(made, max_bytes, threads)
    yield "time", _time(made)


def costs(made: MergePlan, max_bytes: int, threads: int | None) -> dict[str, Any]:
    """Return memory and time of a merge as plain data; those of the machine are estimates."""
    threads = n_threads(threads)
    return {
        "threads": threads,
        "max_memory_bytes": max_bytes,
        "memory_bytes": _memory_bytes(made, max_bytes, threads),
        "seconds_at_1_gb_per_second": made.bytes_moved / RATE,
    }


def _memory_bytes(made: MergePlan, max_bytes: int, threads: int) -> int:
    """Return the memory that the process is about to take."""
    if (largest := facts.largest_matrix(made)) is None:
        return _PROGRAM_BYTES + threads * _THREAD_BYTES
    return _PROGRAM_WITH_TORCH_BYTES + min(threads * largest[0], max(max_bytes, largest[0]))


def _memory(made: MergePlan, max_bytes: int, threads: int) -> str:
    most = max(max_bytes, least_bytes(threads))
    about = format_size(_memory_bytes(made, max_bytes, threads))
    text = f"about {about} in {counted(threads, 'thread')}, buffers up to {format_size(most)}"
    if (largest := facts.largest_matrix(made)) is None:
        return f"{text}, whatever the size of the models"
    return f"{text}, the largest matrix {format_size(largest[0])} ({largest[1]})"


def _time(made: MergePlan) -> str:
    moved = f"{in_time(made.bytes_moved / RATE)} to read and write at {format_size(RATE)}/s"
    if facts.largest_matrix(made) is None:
        return moved
    return f"{moved}, and more for the linear algebra of the matrices"


def in_time(seconds: float) -> str:
    """Return a time in the unit that people would say it in.

    >>> in_time(0.2), in_time(80), in_time(7_000)
    ('below 1 s', '80 s', '1 h 57 min')
    """
    if seconds < 1:
        return "below 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
