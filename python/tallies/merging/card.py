"""Writes the model card of a merge: the base's own card tells of another model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .._version import __version__
from ..checkpoint.cards import RECIPE_NAME, front_matter
from ..checkpoint.checkpoint import Checkpoint
from ..hub.names import of_snapshot
from ..messages import counted
from ..recipe.config import MergeConfig
from ..spec.choices import Semantics
from .plan import MergePlan
from .recipe_file import recipe_yaml
from .report import MergeReport, renamed
from .values import in_words, listed
from .vocabulary_words import in_words as of_tokens

_LIBRARIES: Final = {
    "model_index.json": "diffusers",
    "modules.json": "sentence-transformers",
    "config_sentence_transformers.json": "sentence-transformers",
}
"""The libraries of layouts, by a file that only these have."""

_LICENSE_KEYS: Final = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class _Source:
    """A model that went in, as a card names it."""

    name: str
    """The model's name on the hub, or else the name of its directory."""
    hub_id: str | None
    role: str
    """``base``, ``merged``, or ``adapter`` of the model before it."""
    parameters: str
    fingerprint: str
    matter: dict[str, Any]
    """The front matter of its own card."""

    stage: str = ""
    """Its name, if it is the result of an earlier stage of the request."""

    @property
    def hub_ids(self) -> list[str]:
        """The model's name on the hub, or those of the models that went into a stage."""
        if not self.stage:
            return [self.hub_id] if self.hub_id else []
        stated = self.matter.get("base_model")
        return [one for one in stated if isinstance(one, str)] if isinstance(stated, list) else []

    @property
    def license(self) -> str:
        """The licence that the model's card states, or nothing."""
        stated = self.matter.get("license_name") or self.matter.get("license") or ""
        return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)


def card_text(made: MergePlan, report: MergeReport, title: str, recipe: MergeConfig) -> str:
    """Return the model card of a merge.

    Args:
        made: The plan of the merge.
        report: The report on it.
        title: The name of the result.
        recipe: The request as files beside the result state it.
    """
    import yaml

    sources = list(_sources(made, report))
    matter = {**_matter(made.donor, sources), "tags": ["mergekit", "merge"]}
    head = yaml.safe_dump(matter, allow_unicode=True).strip()
    body = "\n\n".join(_body(made, report, sources, recipe))
    return f"---\n{head}\n---\n\n# {title}\n\n{body}\n"


def _sources(made: MergePlan, report: MergeReport) -> Iterator[_Source]:
    """Yield the base, if there is one, and the models."""
    rows = [("merged", *row) for row in zip(made.experts, report.experts, strict=True)]
    if report.base is not None:
        rows.insert(0, ("base", made.template, report.base))
    ends = _ends(path for _, model, _ in rows for path in model.paths)
    stages = {path: name for name, path in made.config.places.stages}
    for role, model, known in rows:
        names = [_name(path, ends) for path in model.paths]
        said = [*known.layers, listed(known.parameters)]
        parameters, fingerprint = ", ".join(filter(None, said)), known.fingerprint
        for number, path in enumerate(model.paths):
            on_hub, matter = of_snapshot(path), _card_of(path)
            hub_id = on_hub.repo if on_hub else None
            if number:
                yield _Source(names[number], hub_id, "adapter", "", "", matter)
            else:
                stage = stages.get(str(path), "")
                name = "+".join([stage, *names[1:]] if stage else names)
                mark = f"`{fingerprint}`"
                yield _Source(name, hub_id, role, parameters, mark, matter, stage)


_Ends = Mapping[tuple[str, ...], int]


def _ends(paths: Iterable[Path]) -> _Ends:
    """Return how many different paths have each end."""
    every = {path.absolute().parts[1:] for path in paths}
    return Counter(parts[-n:] for parts in every for n in range(1, len(parts) + 1))


def _name(path: Path, ends: _Ends) -> str:
    on_hub = of_snapshot(path)
    return str(on_hub) if on_hub else _directory_name(path, ends)


def _directory_name(path: Path, ends: _Ends) -> str:
    """Return the last name of a path, and as many before it as tell the path from others.

    A file has the name of its directory too: many are called ``model.safetensors``.
    """
    own = path.absolute().parts[1:]
    n = 1 if path.is_dir() else 2
    while n < len(own) and ends[own[-n:]] > 1:
        n += 1
    return "/".join(own[-n:])


def _card_of(path: Path) -> dict[str, Any]:
    return front_matter(path) if path.is_dir() else {}


def _matter(donor: Checkpoint, sources: Sequence[_Source]) -> dict[str, Any]:
    """Return the front matter but for the tags."""
    found: dict[str, Any] = {}
    if hub_ids := list(dict.fromkeys(name for one in sources for name in one.hub_ids)):
        found["base_model"] = hub_ids
    if library := _library(donor):
        found["library_name"] = library
    if isinstance(tag := sources[0].matter.get("pipeline_tag"), str):
        found["pipeline_tag"] = tag
    return found | _license(sources)


def _library(donor: Checkpoint) -> str | None:
    if not donor.path.is_dir():
        return None
    for file, library in _LIBRARIES.items():
        if (donor.path / file).is_file():
            return library
    config = donor.config()
    if "_diffusers_version" in config:
        return "diffusers"
    return "transformers" if "model_type" in config or "architectures" in config else None


def _license(sources: Sequence[_Source]) -> dict[str, Any]:
    """Return the licence of the first model, if none of the others states another one."""
    first = sources[0]
    if not first.license:
        return {}
    if len({one.license for one in sources if one.license}) > 1:
        return {"license": "other"}
    return {key: first.matter[key] for key in _LICENSE_KEYS if key in first.matter}


def _body(
    made: MergePlan, report: MergeReport, sources: Sequence[_Source], recipe: MergeConfig
) -> Iterator[str]:
    method = made.config.method
    yield (
        f"A merge of {counted(len(report.experts), 'model')} by `{report.method}` "
        f"({report.semantics} semantics), made with tallies {__version__}. {method.summary()}"
    )
    if report.semantics != Semantics.PAPER:
        yield f"The formula of the paper, which {report.semantics} semantics varies:"
    yield f"```text\n{method.formula}\n```"
    yield f"{method.paper}."
    yield "## Models"
    yield _table(
        ("model", "role", "parameters", "licence", "fingerprint"),
        (
            (
                f"[{one.name}](https://huggingface.co/{one.hub_id})" if one.hub_id else one.name,
                one.role,
                one.parameters,
                one.license or "not stated",
                one.fingerprint,
            )
            for one in sources
        ),
    )
    if len({one.license for one in sources if one.license}) > 1:
        yield "The models have different licences; the terms of all of them may apply."
    yield "## Parameters"
    yield _table(
        ("parameter", "value"),
        ((f"`{name}`", in_words(value)) for name, value in report.shared_parameters.items()),
    )
    yield (
        f"{report.tensors_merged} tensors merged ({report.parameters:,} parameters), "
        f"{report.tensors_copied} copied, {report.tensors_tied} tied. Fingerprint of the result: "
        f"`{report.output.fingerprint}`."
    )
    if report.vocabulary is not None:
        yield renamed(f"Vocabulary: {of_tokens(report.vocabulary)}.", report.names)
    yield "## Recipe"
    yield f"`tallies merge {RECIPE_NAME} OUT` repeats this merge; `tallies.json` is its report."
    yield f"```yaml\n{recipe_yaml(recipe).strip()}\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    # A licence is a stranger's text: codes for terminals are left out.
    seen = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(seen.split()).replace("|", "\\|")
