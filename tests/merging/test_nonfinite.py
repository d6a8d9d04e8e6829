"""NaN, infinite and overflowing values are counted, named, warned of or let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.support.checkpoints import FILE, read, write
from tests.support.command import tallies, ties
from tests.support.refusals import assert_names, changed, refused, spoilt

pytestmark = pytest.mark.usefixtures("here")


# Values that are not finite.


BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16, ml_dtypes.float8_e5m2, np.float64])
@pytest.mark.parametrize("who", ["base", "first expert", "last expert"])
@pytest.mark.parametrize("threads", [1, 3])
def test_nonfinite_values_are_counted_across_tiles(
    here: Path, dtype: Any, who: str, threads: int
) -> None:
    shape = (401, 257)
    sound = spoilt(shape, {}, dtype)
    # The last one of the array, both infinities, and neighbours on either side of a block's end.
    places = {103_056: np.nan, 65_536: -np.inf, 65_535: np.inf, 40_000: np.nan}
    models = {"base": sound, "first expert": sound, "last expert": sound}
    models[who] = spoilt(shape, places, dtype)
    for name, array in models.items():
        write(here / "models" / f"{name}.safetensors", {"first": sound, "second": array})
    line = refused(
        *ties(
            "models/first expert.safetensors",
            "models/last expert.safetensors",
            base="models/base.safetensors",
            more=f"--threads={threads} --max-memory=64KiB",
        )
    )
    kind = "values in float32" if dtype is np.float64 else "values"
    assert_names(
        line,
        here / "models" / f"{who}.safetensors: tensor 'second' has 4 NaN or infinite {kind}, the "
        "first at element 40000, expected finite ones; repair the model, or pass --nonfinite",
    )


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "linear"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_nonfinite_value_stops_every_method(here: Path, method: str, value: float) -> None:
    write(Path("bad"), changed(layer_weight=spoilt((4, 4), {7: value})))
    arguments = ["--base=base", "--model=a", "--model=bad", "--out=out"]
    line = refused("merge", f"--method={method}", *arguments)
    assert_names(line, here / "bad" / FILE, "'layer.weight' has 1 NaN", "first at element 7,")


@pytest.mark.parametrize("options", ["", "--threads=1 --max-memory=64KiB", "--max-shard-size=1"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_of_several_bad_tensors_the_first_by_name_and_model_is_named(
    here: Path, options: str, scope: str
) -> None:
    big = spoilt((300, 301), {90_000: np.nan})
    sound = {name: spoilt((300, 301), {}) for name in "abcd"}
    write(here / "models/base.safetensors", {**sound, "d": big})
    write(here / "models/x.safetensors", {**sound, "b": big, "c": big})
    write(here / "models/y.safetensors", {**sound, "b": spoilt((300, 301), {0: np.inf})})
    files = [here / "models" / f"{name}.safetensors" for name in ("y", "x")]
    for models, expected in ((files, (files[0], 0)), (files[::-1], (files[1], 90_000))):
        line = refused(
            *ties(
                *models,
                base="models/base.safetensors",
                more=f"{options} --param=scope={scope}",
            )
        )
        assert_names(line, f"{expected[0]}: tensor 'b' has 1 NaN", f"at element {expected[1]},")


@pytest.mark.parametrize("nonfinite", ["warn", "propagate"])
def test_nonfinite_values_that_are_let_through(here: Path, nonfinite: str) -> None:
    write(Path("bad"), changed(layer_weight=spoilt((4, 4), {3: np.nan, 5: np.inf})))
    write(Path("worse"), changed(layer_weight=spoilt((4, 4), {3: np.inf})))
    ended = tallies(*ties("bad", "worse", more=f"--json --nonfinite={nonfinite} --param=density=1"))
    assert (ended.status, ended.err) == (0, "")
    warnings = json.loads(ended.out)["warnings"]
    if nonfinite == "warn":
        assert [warning.split(", expected")[0] for warning in warnings] == [
            f"../bad/{FILE}: tensor 'layer.weight' has 2 NaN or infinite values, the first "
            "at element 3",
            f"../worse/{FILE}: tensor 'layer.weight' has 1 NaN or infinite values, the "
            "first at element 3",
        ]
    else:
        assert warnings == []
    found = read(Path("out"))["layer.weight"].ravel()
    assert [int(i) for i in np.flatnonzero(~np.isfinite(found))] == [3, 5]


FLOAT_MAX = {
    "float16": 65504.0,
    "bfloat16": 3.3895e38,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}


@pytest.mark.parametrize("dtype", FLOAT_MAX)
def test_results_that_overflow_have_a_message_of_their_own(here: Path, dtype: str) -> None:
    largest = np.float32(FLOAT_MAX[dtype])
    write(here / "models/base.safetensors", {"w": np.zeros(100, np.float32)})
    write(here / "models/x.safetensors", {"w": np.full(100, largest, np.float32)})
    request = ties("models/x.safetensors", base="models/base.safetensors")
    options = [f"--out-dtype={dtype}", "--param=density=1"]
    assert tallies(*request, *options).status == 0
    options += ["--param=scale=1.25", "--overwrite"]
    line = refused(*request, *options)
    short = {"float16": "F16", "bfloat16": "BF16"}.get(dtype, f"F8_{dtype[7:11].upper()}")
    assert_names(
        line, f"tensor 'w': merged values overflow {short}; lower the scale", "--out-dtype"
    )
    ended = tallies(*request, *options, "--json", "--nonfinite=warn")
    assert (ended.status, ended.err) == (0, "")
    (warning,) = json.loads(ended.out)["warnings"]
    assert warning in line
