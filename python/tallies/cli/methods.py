"""``tallies methods``."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click

from .. import methods
from ..errors import InputError
from ..methods._spec import Method, Parameter
from ..store import codecs
from ..store._codec import Codec
from ..suggest import unknown

Described = type[Method] | type[Codec]


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the merge methods and the codecs of stores, or show one."""
    known: dict[str, Described] = {one: methods.get(one) for one in methods.names()}
    known |= {one: codecs.get(one) for one in codecs.names()}
    if name and name not in known:
        raise InputError(f"method or codec {unknown(name, known)}")
    chosen = [known[name]] if name else list(known.values())
    if as_json:
        click.echo(json.dumps([_facts(method) for method in chosen], indent=2))
    elif name:
        click.echo(_page(chosen[0]))
    else:
        click.echo("\n\n".join(_entry(method) for method in chosen))


def _entry(method: Described) -> str:
    given = ", ".join(
        f"{name}={_default(parameter, method)}" for name, parameter in _parameters(method).items()
    )
    return (
        f"{method.name}: {method.summary()}\n  {method.formula}\n  {given}\n"
        f"  {method.paper}; semantics: {', '.join(method.semantics)}"
    )


def _page(method: Described) -> str:
    lines = [f"{method.name}: {inspect.getdoc(method)}", "", "Parameters:"]
    for name, parameter in _parameters(method).items():
        traits = [f"default {_default(parameter, method)}"]
        if parameter.choices:
            traits.append(" | ".join(parameter.choices))
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
        lines.append(f"  {name}: {parameter.doc} ({'; '.join(traits)})")
    lines += ["", f"Semantics: {', '.join(method.semantics)}"]
    return "\n".join(lines)


def _range(parameter: Parameter) -> str:
    if parameter.high is None:
        return f"from {parameter.low:g} up"
    return f"from {parameter.low:g} to {parameter.high:g}" if parameter.low is not None else ""


def _parameters(method: Described) -> dict[str, Parameter]:
    """Of all semantics, the first one's default."""
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


def _facts(method: Described) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary(),
        "formula": method.formula,
        "paper": method.paper,
        "kind": "codec" if issubclass(method, Codec) else "method",
        "needs_base": issubclass(method, Codec) or method.needs_base,
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
