"""The command line of benchmarks that merge some layers of a Llama."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from .checkpoints import Llama
from .harness import Row, note, save


def command(
    arguments: Sequence[str] | None,
    name: str,
    doc: str | None,
    repeat: int,
    run: Callable[[Llama, Path, int], list[Row]],
    show: Callable[[list[Row]], str],
) -> None:
    """Run a benchmark as the command line asks, print its table, and keep the results.

    Args:
        arguments: The command line; None for that of the process.
        name: The name of the benchmark and, by default, of its result.
        doc: The text of the help.
        repeat: The samples by default.
        run: Measures a model in a directory, with so many samples.
        show: Returns the table of rows.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=doc)
    parser.add_argument("--repeat", type=int, default=repeat, help=f"samples; default: {repeat}")
    parser.add_argument("--layers", type=int, default=2, help="of a Llama of 1B; default: 2")
    parser.add_argument("--name", default=name, help=f"of the result; default: {name}")
    parser.add_argument("--directory", type=Path, help="for the models; default: a temporary one")
    asked = parser.parse_args(arguments)
    llama = Llama(num_hidden_layers=asked.layers, vocab_size=32000)
    with tempfile.TemporaryDirectory() as temporary:
        rows = run(llama, asked.directory or Path(temporary), asked.repeat)
    print(show(rows))
    settings = {"repeat": asked.repeat, "parameters": llama.n_parameters}
    note(f"-> {save(asked.name, rows, settings)}")
