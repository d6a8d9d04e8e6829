"""Chat templates by name, and the one that most of the models have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..errors import InputError
from ..messages import show, unknown

AUTO: Final = "auto"

_LONGEST_NAME: Final = 256

_CHATML: Final = (
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n"
)

_LLAMA3: Final = (
    "{%- for message in messages -%}\n"
    "{{- (bos_token if loop.first else '') + '<|start_header_id|>' + message['role']\n"
    "    + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}\n"
    "{%- endif -%}\n"
)

_MISTRAL: Final = (
    "{%- set has_system = messages[0]['role'] == 'system' -%}\n"
    "{{- bos_token -}}\n"
    "{%- for message in (messages[1:] if has_system else messages) -%}\n"
    "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}\n"
    "{{- raise_exception('expected messages of user and assistant in turn, behind at most one of "
    "the system') -}}\n"
    "{%- endif -%}\n"
    "{%- if message['role'] == 'user' -%}\n"
    "{{- ' [INST] ' + (messages[0]['content'] + '\\n\\n' if has_system and loop.first else '')\n"
    "    + message['content'] + ' [/INST]' -}}\n"
    "{%- else -%}\n"
    "{{- ' ' + message['content'] + eos_token -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
)

_ALPACA: Final = (
    "{%- set titles = {'user': 'Instruction', 'assistant': 'Response', 'user_context': 'Input'} "
    "-%}\n"
    "{%- for message in messages if message['role'] == 'system' -%}\n"
    "{%- if loop.last -%}{{- message['content'] | trim -}}{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{{- '\\n\\n' -}}\n"
    "{%- for message in messages -%}\n"
    "{%- if message['role'] in titles -%}\n"
    "{{- '### ' + titles[message['role']] + ':\\n' + message['content'] | trim -}}\n"
    "{%- if not loop.last -%}{{- '\\n\\n' -}}{%- endif -%}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}\n"
    "{{- '\\n\\n### Response:\\n' -}}\n"
    "{%- endif -%}\n"
)

_EXAONE: Final = (
    "{%- for message in messages -%}\n"
    "{%- if loop.first and message['role'] != 'system' -%}\n"
    "{{- '[|system|][|endofturn|]\\n' -}}\n"
    "{%- endif -%}\n"
    "{{- '[|' + message['role'] + '|]' + message['content']\n"
    "    + ('\\n' if message['role'] == 'user' else '[|endofturn|]\\n') -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '[|assistant|]' -}}{%- endif -%}\n"
)

TEMPLATES: Final[Mapping[str, str]] = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}
"""The templates that mergekit has names for, as the formats are documented."""


def checked(template: object) -> str:
    """Return a chat template as a recipe states it.

    Args:
        template: ``auto``, one of the names, or the text of a template.

    Raises:
        ValueError: It is none of these, or has an error of syntax where jinja2 is installed.
    """
    if not isinstance(template, str):
        raise ValueError(f"found {show(template)}, expected auto, a name, or a text of jinja")
    is_name = len(template) < _LONGEST_NAME and not set("\n{") & set(template)
    if is_name and template not in (AUTO, *TEMPLATES):
        raise ValueError(f"{unknown(template, (AUTO, *TEMPLATES))}; a text of jinja has braces")
    if not is_name and "{" not in template:
        raise ValueError(f"found {show(template)}, expected a text of jinja, which has braces")
    if not is_name and (problem := _syntax_error(template)) is not None:
        raise ValueError(f"found {show(template)}, which is no jinja: {problem}; correct it")
    return template


def _syntax_error(template: str) -> str | None:
    """Return what is wrong with a text of jinja; None where nothing is, or jinja2 is missing."""
    try:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
    except ImportError:
        return None

    class Generation(Extension):
        """The tag by which transformers finds what an assistant says."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        # Parsed, and never run.
        jinja2.Environment(extensions=[Generation, loopcontrols]).parse(template)  # noqa: S701
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested beyond all sense"
    return None


def chosen(template: str, of_models: Iterable[str | None]) -> str | None:
    """Return the text of a template; None if no model has one to choose.

    Args:
        template: As ``checked`` returns it.
        of_models: The templates of the models; of two that are equally frequent the first counts.
    """
    if template != AUTO:
        return TEMPLATES.get(template, template)
    found = Counter(one.strip() for one in of_models if one and one.strip())
    return found.most_common(1)[0][0] if found else None


def refuse_without_tokenizer(template: str) -> None:
    """Raise InputError for a template of a result that has no tokenizer."""
    raise InputError(
        f"chat_template: found {show(template)}, and the result has no tokenizer; name a model "
        "that has one: 'files_from: MODEL' (--files-from MODEL), or leave it out"
    )
