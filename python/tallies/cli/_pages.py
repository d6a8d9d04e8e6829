"""Print the facts of methods and codecs as a list, a page, Markdown, and plain data."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

from .. import methods
from ..methods._method import Method
from ..spec.parameters import Parameter
from ..store.codecs import registry as codecs
from ..store.codecs._codec import Codec

Described = type[Method] | type[Codec]


def described(name: str | None = None) -> list[Described]:
    """Return all methods of models, those of adapters, and all codecs; or those of this name."""
    of_all = (*methods.names(), *methods.of_adapters())
    found: list[Described] = [methods.get(one) for one in of_all]
    found += [codecs.get(one) for one in codecs.names()]
    return [one for one in found if name in (None, one.name)]


def entry(method: Described) -> str:
    """Return a few lines: summary, formula, parameters with ranges, paper, semantics."""
    given = "; ".join(
        f"{name}={_default(parameter, method)}{_brief_range(parameter)}"
        for name, parameter in _parameters(method).items()
    )
    parameters = textwrap.fill(given, 100, initial_indent="  ", subsequent_indent="    ")
    return (
        f"{method.name}: {method.summary()}\n  {method.formula}\n{parameters}\n"
        f"  {method.paper}; semantics: {', '.join(method.semantics)}"
    )


def page(method: Described) -> str:
    """Return all that a method or codec states: docstring, parameters, semantics, models."""
    lines = [f"{method.name}: {inspect.getdoc(method)}", ""]
    lines.append("Parameters:" if _parameters(method) else "Parameters: none")
    for name, parameter in _parameters(method).items():
        traits = "; ".join([f"default {_default(parameter, method)}", *_traits(parameter, method)])
        lines.append(f"  {name}: {parameter.doc} ({traits})")
    lines += ["", f"Semantics: {', '.join(method.semantics)}"]
    if issubclass(method, Method):
        lines.append(f"Models: {method.number_of_models()}, {_base(method)}")
    return "\n".join(lines)


def markdown(chosen: Iterable[Described]) -> str:
    """Return a page of Markdown with a section for each method or codec."""
    sections = [
        "# Methods and codecs\n\n"
        "Printed by `tallies methods --markdown`; `tallies methods NAME` shows one of them.\n"
    ]
    for method in chosen:
        rows = [
            _table_row(
                f"`{name}`",
                _default(parameter, method),
                "; ".join(_traits(parameter, method)),
                parameter.doc,
            )
            for name, parameter in _parameters(method).items()
        ]
        paragraphs = (inspect.getdoc(method) or "").split("\n\n")
        sections.append(
            "\n\n".join(
                [
                    f"## {method.name}",
                    paragraphs[0],
                    f"```text\n{method.formula}\n```",
                    *paragraphs[1:],
                    f"Semantics: {', '.join(method.semantics)}.",
                    "\n".join(["| parameter | default | values | |", "|---|---|---|---|", *rows]),
                ]
            )
            + "\n"
        )
    return "\n".join(sections)


def _base(method: type[Method]) -> str:
    if method.of_adapters:
        return "adapters alone, to an adapter (`adapter_rank`)"
    if method.needs_base:
        return "and the base that they were tuned from"
    if method.base_is_optional:
        return "with or without a base"
    return "of which a base is the first" if method.base_is_first else "without a base"


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _traits(parameter: Parameter, method: Described) -> list[str]:
    traits = []
    if parameter.choices:
        traits.append(", ".join(parameter.choices))
    if parameter.low is not None or parameter.high is not None:
        traits.append(_range(parameter))
    traits += [f"or {word!r}" for word in parameter.words]
    if parameter.per_model:
        traits.append("per model and tensor")
    elif parameter.per_tensor:
        traits.append("per tensor")
    if parameter.aliases:
        traits.append(f"also called {', '.join(parameter.aliases)}")
    missing = [s for s in method.semantics if s not in parameter.semantics]
    if missing:
        traits.append(f"not in {', '.join(missing)} semantics")
    return traits


def _range(parameter: Parameter) -> str:
    if parameter.high is None:
        return f"from {parameter.low:g} up"
    return f"from {parameter.low:g} to {parameter.high:g}" if parameter.low is not None else ""


def _brief_range(parameter: Parameter) -> str:
    words = [*(parameter.choices or ()), *parameter.words]
    if parameter.low is not None or parameter.high is not None:
        low, high = ("" if end is None else f"{end:g}" for end in (parameter.low, parameter.high))
        words.insert(0, f"{low}..{high}")
    return f" [{'|'.join(words)}]" if words else ""


def _parameters(method: Described) -> dict[str, Parameter]:
    """Return the parameters of all semantics, each with the default of the first."""
    found: dict[str, Parameter] = {}
    for semantics in method.semantics:
        for name, parameter in method.parameters(semantics).items():
            found.setdefault(name, parameter)
    return found


def _default(parameter: Parameter, method: Described) -> str:
    def text(value: float | str | bool | None) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return "required" if value is None else f"{value}"

    others = [
        f"{text(value)} in {semantics}"
        for semantics, value in parameter.by_semantics.items()
        if semantics in method.semantics
    ]
    return ", ".join([text(parameter.default), *others])


def facts(method: Described) -> dict[str, Any]:
    """Return the facts of a method or codec as plain data."""
    return {
        "name": method.name,
        "summary": method.summary(),
        "formula": method.formula,
        "paper": method.paper,
        "kind": "codec" if issubclass(method, Codec) else "method",
        "needs_base": issubclass(method, Codec) or method.needs_base,
        "base_is_optional": not issubclass(method, Codec) and method.base_is_optional,
        "least_models": 1 if issubclass(method, Codec) else method.least_models,
        "most_models": None if issubclass(method, Codec) else method.most_models,
        "semantics": list(method.semantics),
        "parameters": {
            name: {
                "default": parameter.default,
                "default_by_semantics": dict(parameter.by_semantics),
                "doc": parameter.doc,
                "low": parameter.low,
                "high": parameter.high,
                "choices": parameter.choices,
                "words": list(parameter.words),
                "per_model": parameter.per_model,
                "per_tensor": parameter.per_model or parameter.per_tensor,
                "aliases": parameter.aliases,
                "semantics": [s for s in method.semantics if s in parameter.semantics],
            }
            for name, parameter in _parameters(method).items()
        },
    }
