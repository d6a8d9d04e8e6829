"""A process that merges for a long time does not grow: TALLIES_HUNDREDS of jobs of each kind.

With ``-rP`` each kind prints by how much the process grew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.stages import models

HUNDREDS = int(os.environ.get("TALLIES_HUNDREDS", "5"))
PROGRAM = """
import gc, json, os, sys
from pathlib import Path
from tallies import Store, apply_patch, make_patch, merge, pack

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

recipe, job = json.loads(sys.argv[1]), sys.argv[2]
options = {"threads": 2, "max_memory": "64KiB", "overwrite": True}
base, a = recipe["base_model"], recipe["models"][0]["model"]
sizes = []
for n in range(100 * int(sys.argv[3]) + 1):
    if n % 100 == 0:
        sizes.append(resident())
    if job == "merge":
        merge(recipe, "out", **options)
    elif job == "store":
        pack(base, {"a": a}, "out", codec="emr", **options)
        Store.open("out").load("a")
    else:
        apply_patch(make_patch(base, a), base, "out", **options)
print(json.dumps(sizes))
"""


@pytest.mark.parametrize("job", ["merge", "store", "patch"])
def test_hundreds_of_jobs_in_one_process(tmp_path: Path, job: str) -> None:
    """The first two hundred fill caches; each of the others may add a MB, as is promised."""
    recipe = json.dumps(models(tmp_path / "models"))
    command = [sys.executable, "-c", PROGRAM, recipe, job, str(HUNDREDS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    growth = [after - before for before, after in pairwise(sizes[2:])]
    print(f"{job}: grew by {sum(growth)} bytes in the last {len(growth)} hundreds")
    assert sum(growth) / len(growth) < 1e6
