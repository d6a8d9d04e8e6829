"""Bad requests and bad inputs: one clear line, the right exit status, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest

from tallies import InputError, merge
from tallies.checkpoint.json_text import MAX_HEADER_BYTES
from tallies.engine.passes import Passes
from tests.support import corrupt
from tests.support.checkpoints import FILE, Array, Model, read, write
from tests.support.command import COMMAND, Ended, assert_failed, tallies, ties, tree

BASE: Model = {
    "embed_tokens.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),
    "layer.weight": np.linspace(0, 3, 16, dtype=np.float32).reshape(4, 4),
    "position_ids": np.arange(3),
}


def changed(**tensors: Array | None) -> Model:
    """An expert; ``layer_weight`` is ``layer.weight``, and None takes a tensor away."""
    model = {name: array + (array.dtype == np.float32) for name, array in BASE.items()}
    for key, array in tensors.items():
        name = key.replace("_weight", ".weight")
        if array is None:
            del model[name]
        else:
            model[name] = array
    return model


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a base, two experts ``a`` and ``b``, and room for more models."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    write(Path("base"), BASE, config={"model_type": "toy"})
    write(Path("a"), changed())
    write(Path("b"), changed(layer_weight=np.ones((4, 4), np.float32)))
    return tmp_path


def refused(*arguments: object, status: int = 2) -> str:
    """The one line with which a command refuses, having changed nothing in the whole directory."""
    before = tree(Path.cwd())
    line = assert_failed(tallies(*arguments), status)
    assert tree(Path.cwd()) == before
    return line


def assert_names(line: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in line, line


def test_the_models_of_these_tests_merge() -> None:
    assert tallies(*ties("a", "b")).status == 0


# Tensors that do not match.


@pytest.mark.parametrize(
    ("expert", "parts"),
    [
        (
            changed(layer_weight=None),
            ["lacks tensor 'layer.weight', which", "base has; merge models of one architecture"],
        ),
        (
            changed(head_weight=np.zeros((4, 6), np.float32), extra=np.zeros(1, np.float32)),
            ["has tensor 'extra' and 1 more, which", "base lacks", "remove it from the file"],
        ),
        (
            changed(layer_weight=np.zeros((4, 5), np.float32)),
            ["tensor 'layer.weight' has shape [4, 5],", "base has [4, 4]"],
        ),
        (
            changed(layer_weight=np.zeros(16, np.float32)),
            ["tensor 'layer.weight' has shape [16],", "base has [4, 4]"],
        ),
        (
            changed(embed_tokens_weight=np.zeros((8, 4), np.float32)),
            [
                "tensor 'embed_tokens.weight' has shape [8, 4],",
                "base has [6, 4]: rows 6 to 7 are only in the former (vocabularies of 8 and 6",
                "resize the embeddings",
            ],
        ),
        (
            changed(embed_tokens_weight=np.zeros((5, 4), np.float32)),
            ["[5, 4]", "[6, 4]: rows 5 to 5 are only in the latter"],
        ),
        (
            changed(layer_weight=np.zeros((4, 4), np.int32)),
            ["tensor 'layer.weight' is I32,", "base has F32; convert"],
        ),
        (
            changed(position_ids=np.arange(3, dtype=np.int32)),
            ["tensor 'position_ids' is I32,", "base has I64; convert"],
        ),
        (
            changed(position_ids=np.arange(1, 4)),
            ["tensor 'position_ids' is I64 and differs from that of", "pass --param integers=base"],
        ),
    ],
    ids=[
        "missing",
        "extra",
        "columns",
        "rank",
        "more rows",
        "fewer rows",
        "integers",
        "integer type",
        "integer values",
    ],
)
def test_tensors_that_do_not_match(here: Path, expert: Model, parts: list[str]) -> None:
    write(Path("bad"), expert)
    for models in (["a", "bad"], ["bad", "a"]):
        assert_names(refused(*ties(*models)), here / "bad: ", *parts)


def test_heads_that_a_configuration_ties_must_be_equal(here: Path) -> None:
    embedding = BASE["embed_tokens.weight"]
    head = embedding.copy()
    head[5, 3] += 1
    tied = {"tie_word_embeddings": True}
    write(Path("whole"), {**BASE, "lm_head.weight": embedding}, config=tied)
    write(Path("torn"), {**BASE, "lm_head.weight": head}, config=tied)
    line = refused(*ties("torn", base="whole"))
    assert_names(
        line,
        here / "torn: tensors 'lm_head.weight' and 'embed_tokens.weight' differ",
        "set that to",
    )


# Files and directories that are damaged.


@pytest.mark.parametrize("case", corrupt.FILES.values(), ids=corrupt.FILES)
def test_damaged_file(here: Path, case: corrupt.BrokenFile) -> None:
    Path("bad.safetensors").write_bytes(case.content)
    line = refused(*ties("a", "bad.safetensors"))
    assert_names(line, here / "bad.safetensors", case.message)
    assert refused(*ties("a", base="bad.safetensors")) == line


@pytest.mark.parametrize("case", corrupt.DIRECTORIES.values(), ids=corrupt.DIRECTORIES)
def test_damaged_directory(here: Path, case: tuple[Callable[[Path], None], str]) -> None:
    make, message = case
    bad = here / "models" / "bad"
    bad.mkdir()
    make(bad)
    assert_names(refused(*ties("a", "models/bad")), bad, message)


@pytest.mark.parametrize("n_bytes", [1, 4, 100])
def test_file_cut_short(here: Path, n_bytes: int) -> None:
    bad = write(Path("bad.safetensors"), changed())
    size = bad.stat().st_size
    os.truncate(bad, size - n_bytes)
    line = refused(*ties("a", "bad.safetensors"))
    assert_names(
        line, here / f"bad.safetensors: truncated: has {size - n_bytes} bytes", "download it again"
    )


@pytest.mark.parametrize(
    ("n_header", "message"),
    [
        (MAX_HEADER_BYTES, "header: not valid JSON"),
        (MAX_HEADER_BYTES + 1, "header of 100000001 bytes, expected at most 100000000"),
    ],
)
def test_header_of_100_megabytes(here: Path, n_header: int, message: str) -> None:
    bad = Path("bad.safetensors")
    bad.write_bytes(n_header.to_bytes(8, "little"))
    os.truncate(bad, 8 + n_header)
    line = assert_failed(tallies(*ties("a", bad)), 2)
    assert_names(line, here / "bad.safetensors", message)
    assert not Path("out").exists()


@pytest.mark.parametrize("path", ["nowhere", "nowhere/model.safetensors", "base/config.json", ""])
def test_model_that_is_none(path: str) -> None:
    assert_names(refused(*ties("a", path)), path, "expected")
    assert_names(refused(*ties("a", base=path or " ")), path, "expected")


# Requests that make no sense.


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("--param desnity=0.5", ["'desnity' is not known; did you mean 'density'?"]),
        ("--model a:desnity=0.5", ["model 'a'", "'desnity' is not known", "mean 'density'?"]),
        ("--param density=1.5", ["density: found 1.5, expected a finite number from 0 to 1"]),
        ("--param density=-0.1", ["density: found -0.1, expected a finite number from 0 to 1"]),
        ("--param density=nan", ["density: found 'nan', expected a finite number from 0 to 1"]),
        ("--model a:weight=nan", ["model 'a': weight: found 'nan', expected a finite number"]),
        ("--model a:weight=inf", ["model 'a': weight: found 'inf', expected a finite number"]),
        ("--param scale=one", ["scale: found 'one', expected a finite number"]),
        ("--out-dtype bf61", ["out_dtype: 'bf61' is not known", "bfloat16"]),
        ("--max-memory much", ["size 'much': expected such as '5GB'"]),
        ("--max-shard-size 0", ["size '0': expected such as '5GB'"]),
        ("--threads 0", ["threads: found 0, expected a number from 1 to 1024"]),
        ("--nonfinite hide", ["'--nonfinite': 'hide' is not one of 'error', 'warn', 'propagate'"]),
        ("--semantics mine", ["'--semantics': 'mine' is not one of 'paper', 'mergekit'"]),
        ("--device tpu", ["'--device': 'tpu' is not one of 'cpu', 'cuda'"]),
        ("--max-vram much", ["size 'much': expected such as '5GB'"]),
        ("--device cuda --max-vram 1kB", ["max_vram: found '1kB' for "]),
        ("--files-from nowhere", ["nowhere: no such file or directory"]),
    ],
)
def test_wrong_option(more: str, parts: list[str]) -> None:
    assert_names(refused(*ties("a", "b", more=more)), *parts)


def test_unknown_method() -> None:
    line = refused("merge", "--method=tise", "--base=base", "--model=a", "--out=out")
    assert_names(line, "'tise' is not known; did you mean 'ties'?")


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ({"merge_method": "tise"}, ["merge_method: 'tise' is not known; did you mean 'ties'?"]),
        ({"merge_metod": "ties"}, ["'merge_metod' is not known; did you mean 'merge_method'?"]),
        ({"parameters": {"desnity": 0.5}}, ["'desnity' is not known; did you mean 'density'?"]),
        ({"parameters": {"density": 2}}, ["density: found 2, expected a finite number from 0 to"]),
        ({"parameters": {"scale": float("nan")}}, ["scale: found nan, expected a finite number"]),
        (
            {"models": [{"model": "a", "parameters": {"weight": float("nan")}}]},
            ["model 'a': weight: found nan, expected a finite number"],
        ),
        ({"base_model": None}, ["base_model: missing"]),
        ({"slices": []}, ["slices"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_wrong_recipe(recipe: dict[str, Any], parts: list[str]) -> None:
    whole = {"merge_method": "ties", "base_model": "base", "models": [{"model": "a"}]} | recipe
    # JSON is YAML, but for its NaN.
    text = json.dumps({key: value for key, value in whole.items() if value is not None})
    Path("recipe.yml").write_text(text.replace("NaN", ".nan"))
    assert_names(refused("merge", "recipe.yml", "out"), "recipe.yml", *parts)


@pytest.mark.parametrize("text", ["merge_method: [", "", "- ties", "a: &x [*x]", "\0"])
def test_text_that_is_no_recipe(text: str) -> None:
    Path("recipe.yml").write_text(text)
    assert_names(refused("merge", "recipe.yml", "out"), "recipe.yml")
    assert_names(refused("merge", "nowhere.yml", "out"), "nowhere.yml")


# Values that are not finite.

BF16 = ml_dtypes.bfloat16


def spoilt(shape: tuple[int, ...], places: dict[int, float], dtype: Any = np.float32) -> Array:
    """Ones, but for the values at these flat indices."""
    flat = np.ones(int(np.prod(shape)), dtype)
    for index, value in places.items():
        flat[index] = value
    return flat.reshape(shape)


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
            f"{here / 'bad' / FILE}: tensor 'layer.weight' has 2 NaN or infinite values, the first "
            "at element 3",
            f"{here / 'worse' / FILE}: tensor 'layer.weight' has 1 NaN or infinite values, the "
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


# Requests that are done, but look like a mistake.


def test_experts_without_a_difference_are_warned_of(here: Path) -> None:
    ended = tallies(*ties("a", "base", more="--json"))
    assert ended.status == 0
    (warning,) = json.loads(ended.out)["warnings"]
    assert_names(warning, here / "base", "is the base_model and adds nothing: left out")
    for name in ("x", "y"):
        write(Path("models") / name, BASE)
    ended = tallies(*ties("models/x", "a", "models/y", more="--json --overwrite"))
    assert ended.status == 0
    for name, line in zip("xy", json.loads(ended.out)["warnings"], strict=True):
        assert_names(line, here / "models" / name, "its task vector is zero and adds nothing")
    ended = tallies(*ties("models/x", "models/y", more="--json --overwrite"))
    assert ended.status == 0
    assert json.loads(ended.out)["warnings"][2:] == ["the result equals the base bit for bit"]


# Outputs that must not be.


def test_output_that_is_not_empty(here: Path) -> None:
    Path("full").mkdir()
    Path("full/.hidden").write_text("mine")
    for out in ("full", "full/", f"{here}/full", "base/../full", "./full/."):
        assert_names(refused(*ties("a", "b", out=out)), repr(out), "is not empty; pass --overwrite")
    assert tallies(*ties("a", "b", out="full", more="--overwrite")).status == 0
    assert sorted(os.listdir("full")) == ["config.json", FILE, "tallies.json"]


def test_output_that_is_or_is_below_a_file() -> None:
    Path("note").write_text("mine")
    Path("link").symlink_to("note")
    for out in ("note", "note/", "link"):
        for more in ("", "--overwrite", "--resume"):
            line = refused(*ties("a", "b", out=out, more=more))
            assert_names(line, repr(out), "is a file, expected a directory")
    for out in ("note/out", "note/one/two"):
        line = refused(*ties("a", "b", out=out))
        assert_names(line, repr(out), "note is not a directory that can be written")


@pytest.mark.parametrize("more", ["", "--overwrite", "--resume"])
def test_output_that_overlaps_an_input(here: Path, more: str) -> None:
    write(Path("models/x"), changed())
    write(Path("models/y.safetensors"), changed())
    Path("link").symlink_to("base")
    Path("chain").symlink_to("link")
    cases = {
        "is or contains the input": [
            "base",
            "base/",
            "./a",
            "models",
            "link",
            "chain/",
            "a/../b",
            f"{here}/models/x",
            "models/x/../../models/../base",
        ],
        "lies inside the input": ["base/out", "a/deep/er", "link/out", "models/x/.", "chain/new"],
    }
    cases["lies inside the input"].remove("models/x/.")
    for message, outs in cases.items():
        for out in outs:
            line = refused(*ties("a", "b", "models/x", "models/y.safetensors", out=out, more=more))
            assert_names(line, f"output {out!r}: {message}", "choose another")


def test_output_among_files_that_an_input_links_to(here: Path) -> None:
    # As in a hub's cache, where a model is a directory of links.
    blobs = Path("blobs")
    blobs.mkdir()
    Path("a", FILE).rename(blobs / "0123")
    Path("a", FILE).symlink_to("../blobs/0123")
    line = refused(*ties("a", "b", out="blobs", more="--overwrite"))
    assert_names(line, "'blobs': is or contains the input", here / "a" / FILE)


def test_output_that_is_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("work/deep").mkdir(parents=True)
    request = [Path.cwd() / model for model in ("a", "b")]
    base = Path.cwd() / "base"
    monkeypatch.chdir("work/deep")
    for out in (".", "..", os.getcwd()):
        line = refused(*ties(*request, base=base, out=out, more="--overwrite"))
        assert_names(line, repr(out), "is or contains the current directory; name one inside it")


def test_output_that_is_the_root_of_a_file_system() -> None:
    for out in ("/", "//", "/..", "/proc"):
        assert_names(refused(*ties("a", "b", out=out)), f"output {out!r}: is the root of a file")


def test_output_without_a_name() -> None:
    with pytest.raises(InputError, match=r"^output '': expected a directory to create$"):
        merge({"merge_method": "linear", "models": [{"model": "a"}]}, "")
    with pytest.raises(InputError, match="expected a path"):
        merge({"merge_method": "linear", "models": [{"model": "a"}]}, "o\0ut")


@contextmanager
def unprivileged(*directories: Path) -> Iterator[None]:
    """Nobody's rights, if this is root, to whom no directory is closed."""
    if os.geteuid() != 0:
        yield
        return
    for directory in directories:
        directory.chmod(directory.stat().st_mode | 0o755)
    for file in directories[0].rglob("*.safetensors"):
        file.chmod(0o644)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o500, 0o555, 0o666, 0])
def test_output_in_a_directory_that_cannot_be_written(here: Path, mode: int) -> None:
    closed = here / "closed"
    closed.mkdir()
    assert tallies(*ties("a", "b", out="warm")).status == 0  # nothing is left to import
    closed.chmod(mode)
    before = os.listdir(here)
    try:
        with unprivileged(here, *here.parents[:2]):
            for out in ("closed/out", "closed/one/two"):
                line = assert_failed(tallies(*ties("a", "b", out=out)), 2)
                assert_names(line, repr(out), "closed is not a directory that can be written")
    finally:
        closed.chmod(0o700)
    assert os.listdir(here) == before
    assert os.listdir(closed) == []


# Disks that are too small.


def disk_with(free: int) -> mock._patch[Any]:
    status = SimpleNamespace(f_bavail=free // 512, f_frsize=512)
    return mock.patch("os.statvfs", return_value=status)


def test_disk_that_is_too_small_is_known_before_anything_is_read(here: Path) -> None:
    Path("base/tokenizer.json").write_bytes(bytes(100_000))
    with mock.patch.object(Passes, "__init__", side_effect=AssertionError), disk_with(1024):
        line = refused(*ties("a", "b", out="one/two"))
    assert_names(line, here / "one/two: needs", "has only 1024 free; make room, or choose")
    needed = int(line.split("needs ")[1].split()[0])
    with disk_with((needed - 1) // 512 * 512):
        refused(*ties("a", "b"))
    with disk_with((needed + 511) // 512 * 512):
        assert tallies(*ties("a", "b")).status == 0
    written = sum(path.stat().st_size for path in Path("out").iterdir())
    assert 100_000 < written < needed < written + 2_000_000


# The same from a shell.


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (ties("a", "short.safetensors"), "truncated"),
        (ties("a", "nan"), "has 1 NaN or infinite values, the first at element 4"),
        (ties("a", out="base/out"), "lies inside the input"),
    ],
)
def test_from_a_shell(here: Path, request_: list[str], part: str) -> None:
    os.truncate(write(Path("short.safetensors"), changed()), 300)
    write(Path("nan"), changed(layer_weight=spoilt((4, 4), {4: np.nan})))
    before = tree(here)
    run = subprocess.run([*COMMAND, *request_], capture_output=True, text=True, check=False)
    assert_names(assert_failed(Ended(run.returncode, run.stdout, run.stderr), 2), part)
    assert tree(here) == before
