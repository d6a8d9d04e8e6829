"""Take an adapter out of a fine-tuned model."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from ..lora.extract import extract_lora
from ..lora.report import summary
from ._bar import wants_bar
from ._options import offline_option, run_options, variant_option
from ._screen import screen
from ._tensor_options import architecture_option, extra_option, missing_option


def _rank(context: click.Context, parameter: click.Parameter, text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        raise InputError(
            f"--rank {text!r}: expected a number from 1 up, such as 32, or the share of the energy "
            "to keep, such as 0.95"
        ) from None


@click.command("extract-lora")
@click.argument("finetuned")
@click.option("--base", required=True, metavar="DIR", help="Model that FINETUNED was tuned from.")
@click.option(
    "--rank",
    required=True,
    callback=_rank,
    metavar="NUMBER|SHARE",
    help="Rank of all factors, such as 32; or the share of each matrix's energy to keep, such as "
    "0.95.",
)
@click.option("--out", required=True, metavar="DIR", help="Directory to create.")
@click.option("--max-rank", type=int, help="Upper bound for the ranks that a share asks for.")
@click.option("--alpha", type=float, help="Value of lora_alpha to state. Default: the rank.")
@click.option(
    "--target",
    metavar="REGEX",
    help="Part of the names of the tensors to factor. Default: linear layers, convolutions and "
    "experts.",
)
@click.option(
    "--save-modules",
    is_flag=True,
    help="Keep changed embeddings, norms and biases whole.",
)
@click.option(
    "--dtype", metavar="DTYPE", help="Type of the factors. Default: the base's, or float32."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random start.")
@variant_option
@missing_option
@extra_option
@architecture_option
@run_options
@offline_option
def command(
    finetuned: str,
    base: str,
    out: str,
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Take an adapter out of a FINETUNED model.

    \b
    tallies extract-lora FINETUNED --base BASE --rank 32 --out ADAPTER
    tallies extract-lora FINETUNED --base BASE --rank 0.95 --max-rank 256 --out ADAPTER
    tallies extract-lora FINETUNED --base BASE --rank 16 --target 'self_attn|mlp' --out ADAPTER
    """
    report = extract_lora(finetuned, base, out, progress=wants_bar(progress, quiet), **options)
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(summary(report, screen()))
