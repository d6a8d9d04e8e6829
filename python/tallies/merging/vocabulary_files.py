"""The files beside a result that has a tokenizer or a chat template of its own."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint.files import AuxiliaryFiles
from ..checkpoint.json_text import read_text
from ..vocabulary.files import config_text, template_texts, tokenizer_texts
from ..vocabulary.templates import refuse_without_tokenizer
from ..vocabulary.tokenizer import CONFIG, FILES, TEXT, read
from .vocabulary import Vocabulary

_CONFIGURATIONS = ("config.json", "generation_config.json")


def with_tokenizer(
    found: AuxiliaryFiles, vocabulary: Vocabulary | None, template: str | None
) -> AuxiliaryFiles:
    """Return the files beside a result with its tokenizer and chat template.

    Args:
        found: The files of the donor, its configuration already true of the tensors.
        vocabulary: The vocabulary that the request asks for, or None.
        template: The text of the chat template, or None.

    Raises:
        InputError: A file cannot be made true, or there is no tokenizer for the template.
        StorageError: A file cannot be read.
    """
    made = found if vocabulary is None else _joined(found, vocabulary)
    if template is None:
        return made
    files = {name: made.places[Path(name)] for name in FILES if Path(name) in made.places}
    if CONFIG not in files and TEXT not in files:
        refuse_without_tokenizer(template)
    texts = {path.as_posix(): text for path, text in made.texts.items()}
    new = {Path(name): text for name, text in template_texts(files, texts, template).items()}
    return AuxiliaryFiles(made.places, {**made.texts, **new})


def _joined(found: AuxiliaryFiles, vocabulary: Vocabulary) -> AuxiliaryFiles:
    own = {name: found.places[Path(name)] for name in FILES if Path(name) in found.places}
    places = {path: at for path, at in found.places.items() if path.as_posix() not in own}
    places |= {Path(name): at for name, at in vocabulary.files.items()}
    texts = dict(found.texts)
    if (new := vocabulary.tokenizer) is not None:
        texts |= {Path(name): text for name, text in tokenizer_texts(new).items()}
        old = read(own, "tokenizer") if TEXT in own else None
        for path in map(Path, _CONFIGURATIONS):
            text = read_text(places[path]) if path in places else b""
            # Before a download zeros stand in the place of small files.
            if text.strip(b"\0"):
                said = texts.get(path, text)
                changed = config_text(places[path], said, old, new, vocabulary.n_rows)
                if changed != text:
                    texts[path] = changed
    return AuxiliaryFiles(dict(sorted(places.items())), texts)
