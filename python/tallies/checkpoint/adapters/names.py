"""Find the tensors of a model by the names that adapters, hosts and wrappers give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Final

_WRAPPERS: Final = frozenset(
    (
        *("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"),
        *("base_layer", "original_module"),
    )
)
"""Components that torch's and PEFT's wrappers put into the names of the modules inside."""

_OF_PEFT: Final = ("base_model.model.", "base_model.")

TEXT_MODELS: Final = (
    *("model.language_model.", "language_model.model.", "model.text_model."),
    *("model.language_model.model.", "language_model.", "thinker.model.", "model."),
)
"""Prefixes of one text model: alone, and in models of several modes, old and new."""

BACKBONES: Final = ("transformer.", "backbone.", "bert.", "roberta.")
"""Prefixes of a model without its head."""

DENOISERS: Final = ("unet.", "transformer.", "prior.", "model.diffusion_model.", "diffusion_model.")
"""Prefixes of the model that denoises: in folders of pipelines, and in single files."""

_CLIP_L: Final = (
    *("text_encoder.", "cond_stage_model.transformer.", "cond_stage_model.model."),
    *("conditioner.embedders.0.transformer.", "conditioner.embedders.0.model."),
    "text_encoders.clip_l.transformer.",
)
_CLIP_G: Final = (
    *("text_encoder_2.", "conditioner.embedders.1.model."),
    "text_encoders.clip_g.transformer.",
)
_T5: Final = ("text_encoder_3.", "text_encoder_2.", "text_encoders.t5xxl.transformer.")

COMPONENTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("unet", "transformer", "diffusion_model", "prior", "prior_unet"), DENOISERS),
    **dict.fromkeys(("te", "te1", "text_encoder", "prior_te"), _CLIP_L),
    **dict.fromkeys(("te2", "text_encoder_2"), _CLIP_G),
    **dict.fromkeys(("te3", "text_encoder_3"), _T5),
}
"""Prefixes that a component has in models, by its names in adapters: kohya's, and diffusers'."""

_AROUND: Final = frozenset(
    (
        *BACKBONES,
        *TEXT_MODELS,
        *(f"{component}." for component in COMPONENTS),
        *(root for roots in COMPONENTS.values() for root in roots),
    )
)
"""Prefixes of whole models, behind which a name of two components, ``norm.weight``, says enough."""

_KOHYA: Final = re.compile(
    r"(?:lora_(?P<component>unet|te\d?|prior_unet|prior_te|transformer)|lycoris)_"
    r"(?P<module>[^.]+)\.(?P<parameter>[^.]+)\Z"
)


def plain(name: str) -> str:
    """Return a name without folders' slashes, wrappers, and PEFT's prefix.

    >>> plain("base_model.model._orig_mod.model.layers.0.q_proj.base_layer.weight")
    'model.layers.0.q_proj.weight'
    """
    text = name.replace("/", ".")
    for prefix in _OF_PEFT:
        text = text.removeprefix(prefix)
    return ".".join(part for part in text.split(".") if part not in _WRAPPERS)


class Names:
    """The names of a model's tensors, looked up by those of an adapter's model."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def find(self, name: str) -> list[str]:
        """Return the names that a name may stand for: one where it is clear, several, or none.

        The name itself is looked for first, then the same without wrappers, then under another
        prefix of its component or of the text model, then with components in front that either of
        the two lacks, as few as possible. kohya's names have underscores for dots.
        """
        if name in self._names:
            return [name]
        if kohya := _KOHYA.match(name):
            return self._find_flat(kohya)
        wanted = plain(name)
        for one in _spellings(wanted):
            if one in self._by_plain:
                return self._by_plain[one]
        for old in TEXT_MODELS:
            if wanted.startswith(old):
                rest = wanted.removeprefix(old)
                found = [one for new in TEXT_MODELS for one in self._by_plain.get(new + rest, ())]
                if found:
                    return found
        longer = self._by_end.get(wanted, [])
        least = min((one.count(".") for one in map(plain, longer)), default=0)
        found = [one for one in longer if plain(one).count(".") == least]
        parts = wanted.split(".")
        for n in range(1, len(parts) - 1):
            is_telling = len(parts) - n > 2 or ".".join([*parts[:n], ""]) in _AROUND
            if is_telling and not found:
                found = self._by_plain.get(".".join(parts[n:]), [])
        if not found and wanted.startswith("text_model."):
            return self.find(wanted.removeprefix("text_model."))
        return found

    def _find_flat(self, kohya: re.Match[str]) -> list[str]:
        module, parameter = kohya["module"], kohya["parameter"]
        modules = [module, module.removeprefix("text_model_")]
        roots = COMPONENTS.get(kohya["component"] or "", DENOISERS)
        for root in (*roots, ""):
            for one in modules:
                found = self._by_flat.get(f"{_flat(root)}{one}.{parameter}")
                if found:
                    return found
        return []

    @cached_property
    def _by_plain(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in sorted(self._names):
            found.setdefault(plain(name), []).append(name)
        return found

    @cached_property
    def _by_flat(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, whole in self._by_plain.items():
            module, _, parameter = name.rpartition(".")
            found.setdefault(f"{_flat(module)}.{parameter}", []).extend(whole)
        return found

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """The names by each of their ends that has two components or more."""
        found: dict[str, list[str]] = {}
        for name, whole in self._by_plain.items():
            parts = name.split(".")
            for n in range(1, len(parts) - 1):
                found.setdefault(".".join(parts[n:]), []).extend(whole)
        return found


def _spellings(name: str) -> Iterator[str]:
    """Yield a name as it is, and under the other prefixes of its component.

    A text encoder may have all of its modules in ``text_model``, or has none of them there.
    """
    component, _, rest = name.partition(".")
    for root in ("", *COMPONENTS.get(component, ())):
        one = root + rest if root else name
        yield one
        if ".text_model." in one:
            yield one.replace(".text_model.", ".", 1)
        elif root:
            yield f"{root}text_model.{rest}"


def _flat(module: str) -> str:
    return module.replace(".", "_")
