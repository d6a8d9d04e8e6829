"""Prints how two results of the same benchmark differ: what a change to speed must show.

python -m bench.compare OLD.json NEW.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .support.harness import Case, note, spread, table

Result = dict[str, Any]
"""A result that ``harness.save`` wrote."""


def compare(old: Result, new: Result) -> str:
    """A table of the cases that both have: seconds, their ratio (below 1 is faster), the noise.

    Noise is the larger of the two spreads of samples, from the fastest to the slowest, as a share
    of the median: a difference smaller than it says nothing.
    """
    olds = {_key(row["case"]): row for row in old["rows"]}
    news = {_key(row["case"]): row for row in new["rows"]}
    shared = [key for key in olds if key in news]
    body, ratios = [], []
    for key in shared:
        before, after = olds[key], news[key]
        ratios.append(after["seconds"] / before["seconds"])
        noise = max(spread(before["samples"]), spread(after["samples"]))
        body.append(
            [
                key,
                f"{before['seconds']:.4g}",
                f"{after['seconds']:.4g}",
                f"{ratios[-1]:.2f}",
                f"{noise:.0%}",
            ]
        )
    if not shared:
        return "the two results have no case in common"
    body.append(["geometric mean", "", "", f"{statistics.geometric_mean(ratios):.2f}", ""])
    return table(["case", "old s", "new s", "new/old", "noise"], body)


def differences(old: Result, new: Result) -> list[str]:
    """Why the two may not be comparable: other machines, and cases that only one has."""
    found = [
        f"machines differ: {fact} is {value} in the old, {new['machine'].get(fact)} in the new"
        for fact, value in old["machine"].items()
        if fact not in ("tallies", "build") and new["machine"].get(fact) != value
    ]
    keys = [{_key(row["case"]) for row in result["rows"]} for result in (old, new)]
    for name, only in (("old", keys[0] - keys[1]), ("new", keys[1] - keys[0])):
        if only:
            found.append(f"{len(only)} cases are in the {name} result only")
    return found


def _key(case: Case) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in case.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison of the two files that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    asked = parser.parse_args(arguments)
    old, new = (json.loads(path.read_text()) for path in (asked.old, asked.new))
    for difference in differences(old, new):
        note(difference)
    print(compare(old, new))


if __name__ == "__main__":
    main()
