"""Merge as mergekit-yaml does, on this engine."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from ..hub.library import cached_in
from ..merging.checkpoints import merge
from ..merging.report import MergeReport
from ..merging.summary import summary
from ..messages import unknown
from ..recipe.config import MergeConfig
from ..recipe.overrides import Overrides
from ..sizes import parse_size
from ..spec.choices import MERGEKIT, Architecture
from ..spec.dtypes import FLOATS, RECIPE_NAMES, named
from ._bar import wants_bar
from ._options import memory_option, offline_option
from ._screen import screen

_NOTHING_TO_DO = {
    "lora_merge_cache": "adapters are added while models are merged",
    "lora_merge_dtype": "adapters are added in float32",
    "low_cpu_memory": "--max-memory bounds memory",
    "clone_tensors": "tensors are written one by one",
    "trust_remote_code": "no code of a model is run",
    "lazy_unpickle": "files are read tile by tile",
    "read_to_gpu": "tiles go to the device by themselves",
    "multi_gpu": "one device merges",
    "async_write": "threads read and write at once",
    "write_threads": "threads read and write at once",
    "verbosity": "there is one degree of detail",
}
"""The options of mergekit that ask for nothing here, and why."""


_NO_LIMIT = 10**17


def _switch(name: str, text: str, default: bool | None = None) -> click.Option:
    return click.Option([f"--{name}/--no-{name}"], default=default, help=text)


def _dtype(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Return the name of a dtype as it is; InputError for another text."""
    if text is not None and named(text) not in FLOATS:
        raise InputError(f"{option.opts[0]}: {unknown(text, RECIPE_NAMES)}")
    return text


def _idle(name: str, metavar: str | None = None, **checks: Any) -> click.Option:
    text = f"Nothing to do: {_NOTHING_TO_DO[name.replace('-', '_')]}."
    if metavar is None:
        return _switch(name, text)
    return click.Option([f"--{name}"], metavar=metavar, help=text, **checks)


def _n_bytes(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Return a size such as 5B or 200M of mergekit as a number of bytes."""
    if text is None:
        return None
    if text == "0":
        return str(_NO_LIMIT)
    factors = {"k": 10**3, "m": 10**6, "b": 10**9}
    number, factor = (text[:-1], factors.get(text[-1:].lower())) if text else ("", None)
    if factor is not None and number.isdecimal():
        return str(int(number) * factor)
    try:
        parse_size(text)  # plain bytes, or a size such as 5GB
    except InputError as error:
        raise InputError(f"{option.opts[0]}: {error}") from None
    return text


_OPTIONS = [
    _switch("allow-crimes", "Merge models of different architectures whose tensors fit."),
    _switch("unsafe-truncate-embeddings", "Merge the rows that the embeddings of all models have."),
    click.Option(["--transformers-cache"], metavar="DIR", help="Cache of models of the hub."),
    click.Option(
        ["--out-shard-size"],
        metavar="SIZE",
        callback=_n_bytes,
        help="Most bytes of an output shard: 5B, 200M, or 5GB. Default: 5GB.",
    ),
    _switch("copy-tokenizer", "Copy the files of a tokenizer. Default: yes."),
    click.Option(["--random-seed"], type=int, metavar="N", help="Seed of random methods."),
    _switch("write-model-card", "Write a model card and mergekit_config.yml. Default: yes."),
    _switch("safe-serialization", "Write safetensors, the only format there is.", default=True),
    _switch("cuda", "Merge on the first CUDA device."),
    click.Option(
        ["--device"],
        metavar="DEVICE",
        help="Processor that merges: cpu, cuda, or auto for a CUDA device if there is one.",
    ),
    click.Option(
        ["--gpu-rich"], is_flag=True, help="Merge on the first CUDA device, as --cuda does."
    ),
    click.Option(
        ["--num-threads", "-j"],
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Number of threads. Default: all.",
    ),
    _switch("quiet", "Print nothing but errors."),
    _idle("lora-merge-cache", "DIR"),
    _idle("lora-merge-dtype", "DTYPE", callback=_dtype),
    _idle("low-cpu-memory"),
    _idle("clone-tensors"),
    _idle("trust-remote-code"),
    _idle("lazy-unpickle"),
    _idle("read-to-gpu"),
    _idle("multi-gpu"),
    _idle("async-write"),
    _idle("write-threads", "N", type=int),
    click.Option(
        ["-v", "verbosity"], count=True, help=f"Nothing to do: {_NOTHING_TO_DO['verbosity']}."
    ),
]


def _device(device: str | None, cuda: bool | None, gpu_rich: bool) -> str:
    """Return the device as ``merge`` takes it."""
    from .. import cuda as cuda_devices

    wanted = device or ("cuda" if cuda or gpu_rich else "cpu")
    if wanted == "auto":
        return "cuda" if cuda_devices.devices() else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or number not in ("", "0"):
        raise InputError(
            f"--device {wanted}: is not done; cpu, cuda (the first CUDA device) or auto"
        )
    return kind


def _note(given: dict[str, Any]) -> str | None:
    """Return the line about options that ask for nothing here, or None."""
    asked = [name for name in _NOTHING_TO_DO if given[name]]
    if not asked:
        return None
    names = {name: "-v" if name == "verbosity" else f"--{name.replace('_', '-')}" for name in asked}
    told = "; ".join(f"{names[name]} ({_NOTHING_TO_DO[name]})" for name in asked)
    return f"tallies: nothing to do for {told}"


def _merge(
    config: str,
    out: str,
    max_memory: str,
    overwrite: bool,
    resume: bool,
    progress: bool | None,
    **given: Any,
) -> None:
    """Merge as mergekit-yaml does, on this engine.

    CONFIG is read in mergekit's semantics. All options of mergekit 0.1.5 are accepted; those that
    ask for nothing here say so. Several documents in CONFIG are stages, as for mergekit-multi.
    """
    if given["safe_serialization"] is False:
        raise InputError(
            "--no-safe-serialization: results are safetensors; leave it out, and save the loaded "
            "result with save_pretrained(..., safe_serialization=False) if need be"
        )
    quiet = bool(given["quiet"])
    if not quiet and (note := _note(given)) is not None:
        click.echo(note, err=True)
    keys = {
        "semantics": MERGEKIT,
        "seed": given["random_seed"],
        "max_shard_size": given["out_shard_size"],
        "card": given["write_model_card"],
        "copy_tokenizer": given["copy_tokenizer"],
        "architecture": Architecture.ANY if given["allow_crimes"] else None,
        "embeddings": "truncate" if given["unsafe_truncate_embeddings"] else None,
    }
    if (cache := given["transformers_cache"]) is not None:
        click.get_current_context().with_resource(cached_in(cache))
    report = merge(
        MergeConfig.load(config, Overrides(keys)),
        out,
        max_memory=max_memory,
        threads=given["num_threads"],
        device=_device(given["device"], given["cuda"], given["gpu_rich"]),
        resume=resume,
        overwrite=overwrite,
        progress=wants_bar(progress, quiet),
    )
    if not quiet and isinstance(report, MergeReport):
        click.echo(summary(report, screen()))


command = click.Command(
    "mergekit-yaml",
    params=[
        click.Argument(["config"]),
        click.Argument(["out"]),
        *_OPTIONS,
        click.Option(
            ["--overwrite"],
            is_flag=True,
            help="Replace an earlier result in the place of the output.",
        ),
        click.Option(["--resume"], is_flag=True, help="Continue an interrupted run."),
        click.Option(
            ["--progress/--no-progress"],
            default=None,
            help="Show a progress bar. Default: on a terminal only.",
        ),
    ],
    callback=_merge,
    help=_merge.__doc__,
)
command = offline_option(memory_option(command))
