"""Let coverage guide the cases of a target, with atheris: ``python -m tests.fuzz.guided TARGET``.

Options of libFuzzer follow the target, ``-max_total_time=60`` among them. A case is a folder packed
into bytes, which the mutations of ``mutate.py`` change; cases that reach lines which no other has
reached are changed further. The first finding ends the run, and libFuzzer keeps its bytes.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

from tests.fuzz import cases
from tests.fuzz.__main__ import Watch
from tests.fuzz.mutate import mutate

with atheris.instrument_imports(include=["tallies"]):
    from tests.fuzz.targets import TARGETS, checkpoint

MAX_BYTES = 1 << 16


def main() -> None:
    name, options = sys.argv[1], sys.argv[2:]
    target = TARGETS[name]
    started = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(room / "hub")}
        warnings.simplefilter("error", RuntimeWarning)
        tempfile.tempdir = folder
        checkpoint(room / "base")
        (room / "seeds").mkdir()
        seeds = target.seeds(room / "seeds")
        names = {one: b"" for files in seeds for one in files}
        case, corpus = room / "case", room / "corpus"
        corpus.mkdir()
        for number, files in enumerate(seeds):
            (corpus / str(number)).write_bytes(cases.pack(files))
            cases.write(case, files)
            target.run(case)  # imports what is imported late
        watch = Watch(room)

        def changed(data: bytes, max_size: int, seed: int) -> bytes:
            rng = random.Random(seed)
            files = cases.unpack(data, names) or rng.choice(seeds)
            made = cases.pack(mutate(files, rng, target.sign))
            return made if len(made) <= max_size else data

        def once(data: bytes) -> None:
            files = cases.unpack(data, names)
            if files is None:
                return
            cases.write(case, files)
            os.chdir(room)
            watch.is_on = True
            try:
                target.run(case)
            finally:
                watch.is_on = False
                os.chdir(started)
            assert not watch.outside, watch.outside

        more = [f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=2048", "-len_control=0"]
        atheris.Setup([sys.argv[0], *more, *options, str(corpus)], once, custom_mutator=changed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
