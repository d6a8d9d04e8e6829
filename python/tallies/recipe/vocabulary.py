"""The keys of a recipe about the tokenizer of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict

from ..errors import InputError
from ..messages import show, unknown
from ..vocabulary.templates import checked
from .spelling import model_text

WORDS: Final = ("base", "union")
"""Sources that are no models."""

_LARGEST_MULTIPLE: Final = 1 << 20

_KEYS: Final = ("source", "tokens", "pad_to_multiple_of")
_TOKEN_KEYS: Final = ("source", "force")
_KINDS: Final = {"zero": set[str](), "model_token": {"model", "token", "token_id"}}


def one_key(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with mergekit's ``tokenizer_source: X`` as ``tokenizer: {source: X}``.

    Raises:
        InputError: The recipe has both keys.
    """
    recipe = dict(data)
    source = recipe.pop("tokenizer_source", None)
    if source is None:
        return recipe
    if recipe.get("tokenizer") is not None:
        raise InputError("tokenizer_source: the recipe has 'tokenizer' too; keep one of the two")
    return {**recipe, "tokenizer": {"source": source}}


def _checked(value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"found {show(value)}, expected {{source: base, union or MODEL, ...}}")
    for key in value:
        if key not in _KEYS:
            raise ValueError(f"key {unknown(key, _KEYS)}")
    found: dict[str, Any] = {"source": _source(value.get("source"))}
    tokens = value.get("tokens")
    if tokens is not None and not isinstance(tokens, Mapping):
        raise ValueError(f"tokens: found {show(tokens)}, expected {{TOKEN: {{source: MODEL}}}}")
    if tokens:
        found["tokens"] = {_token(token): _rule(token, one) for token, one in tokens.items()}
    multiple = value.get("pad_to_multiple_of")
    if multiple is not None:
        if type(multiple) is not int or not 0 <= multiple <= _LARGEST_MULTIPLE:
            raise ValueError(
                f"pad_to_multiple_of: found {show(multiple)}, expected a number such as 64, at "
                f"most {_LARGEST_MULTIPLE}"
            )
        found["pad_to_multiple_of"] = multiple
    return found


def _source(value: object) -> str:
    text = "union" if value is None else model_text(value)
    if not isinstance(text, str) or not text:
        raise ValueError(f"source: found {show(value)}, expected base, union or a model")
    prefix, _, name = text.partition(":")
    if prefix == "model" and name and not name.startswith("//"):
        raise ValueError(f"source: found {show(text)}, expected the model alone: {show(name)}")
    return text


def _token(token: object) -> str:
    if not isinstance(token, str) or not token:
        raise ValueError(f"tokens: found {show(token)}, expected the text of a token, in quotes")
    return token


def _rule(token: object, value: object) -> dict[str, Any]:
    where = f"tokens: {show(token)}"
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: found {show(value)}, expected {{source: MODEL, force: false}}")
    for key in value:
        if key not in _TOKEN_KEYS:
            raise ValueError(f"{where}: key {unknown(key, _TOKEN_KEYS)}")
    force = value.get("force")
    if force is not None and not isinstance(force, bool):
        raise ValueError(f"{where}: force: found {show(force)}, expected true or false")
    source = _token_source(where, value.get("source"))
    return {**({} if source is None else {"source": source}), "force": bool(force)}


def _token_source(where: str, value: object) -> Any:
    if value is None:
        return None
    text = model_text(value)
    if isinstance(text, str) and text:
        return text
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: source: found {show(value)}, expected a model or {{kind: ...}}")
    kind = value.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"{where}: source: kind: {unknown(kind, _KINDS)}")
    for key in value.keys() - {"kind"}:
        if key not in _KINDS[kind]:
            raise ValueError(f"{where}: source: key {unknown(key, ['kind', *_KINDS[kind]])}")
    if kind == "zero":
        return {"kind": kind}
    model, token, number = model_text(value.get("model")), value.get("token"), value.get("token_id")
    if not isinstance(model, str) or not model:
        raise ValueError(f"{where}: source: found model {show(model)}, expected a model")
    if (token is None) == (number is None):
        raise ValueError(f"{where}: source: expected one of token and token_id")
    if number is not None and (type(number) is not int or number < 0):
        raise ValueError(f"{where}: source: token_id: found {show(number)}, expected 0 or more")
    if token is not None and not isinstance(token, str):
        raise ValueError(f"{where}: source: token: found {show(token)}, expected its text")
    said = {"token": token} if token is not None else {"token_id": number}
    return {"kind": kind, "model": model, **said}


def restated(value: Mapping[str, Any] | None, text: Callable[[str], str]) -> Any:
    """Return a checked ``tokenizer`` with ``text`` applied to the text of every model."""
    if value is None:
        return None

    def source(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {**one, "model": text(one["model"])} if "model" in one else one
        return text(one)

    made = dict(value)
    if made["source"] not in WORDS:
        made["source"] = text(made["source"])
    if "tokens" in made:
        made["tokens"] = {
            token: {**one, "source": source(one["source"])} if "source" in one else one
            for token, one in made["tokens"].items()
        }
    return made


def _template(value: object) -> str | None:
    return None if value is None or value == "" else checked(value)


class VocabularyKeys(BaseModel):
    """The keys of a recipe about the tokenizer of its result."""

    model_config = ConfigDict(defer_build=True)

    tokenizer: Annotated[Any, BeforeValidator(_checked)] = None
    """``{source, tokens, pad_to_multiple_of}``: the tokenizer, and the rows of embeddings by it."""
    chat_template: Annotated[str | None, BeforeValidator(_template)] = None
    """The chat template of the result: ``auto``, a name, or a text of jinja."""
