"""Everything that goes wrong with a hub: one line with the cause and a way out."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from tallies import InputError, StorageError, merge, plan
from tallies.hub import attempts, download, names
from tallies.hub.names import HubModel
from tests.support.checkpoints import Model, data_bytes, write
from tests.support.command import COMMAND, assert_failed, tallies
from tests.support.command_line import printed
from tests.support.hub import TOKEN, Hub

RECIPE = {"merge_method": "linear", "models": [{"model": "org/one"}, {"model": "org/two"}]}


def refused(*texts: str, status: int = 2) -> str:
    """The line with which the plan of these models is refused."""
    models = [f"--model={text}" for text in texts]
    return assert_failed(tallies("plan", "--method", "linear", *models), status)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/none", ["org/none: no such file", "has no such model or keeps it", "hf auth login"]),
        ("org/one@gone", ["org/one@gone: the model has no revision 'gone'", "/org/one/commits"]),
        ("models/onr", ["models/onr: no such file", "did you mean 'models/one'?"]),
        ("hf://nobody", ["nobody: no such file", "has no such model"]),
        ("singel", ["here/singel: no such file", "hf://singel", "did you mean 'single'?"]),
        ("hf://org/one/model.safetensors", ["expected hf://org/name"]),
        ("s3://bucket/model", ["s3:// addresses are not read", "org/name"]),
        ("https://huggingface.co/org/one", ["https:// addresses are not read"]),
        ("org/one@v1@v2", ["org/one@v1@v2: no such file or directory"]),
        ("models/model.safetensors", ["here/models/model.safetensors: no such file"]),
        ("C:\\models\\one", ["no such file or directory"]),
    ],
)
def test_names_that_lead_nowhere(models: dict[str, Model], text: str, parts: list[str]) -> None:
    Path("models/one").mkdir(parents=True)
    Path("single").mkdir()
    line = refused(text, "org/two")
    for part in parts:
        assert part in line


def test_a_gated_model_and_a_token(
    models: dict[str, Model], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models["org/one"].gated = True
    line = refused("org/one", "org/two")
    for part in ("is gated", "/org/one", "hf auth login", "HF_TOKEN"):
        assert part in line
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    request = ("--method", "linear", "--model", "org/one", "--model", "org/two")
    printed("plan", *request)
    printed("merge", *request, "out")
    assert hub.tokens_at_cdn == []
    for path in Path("out").rglob("*.json"):
        assert TOKEN not in path.read_text()
    hub.faults += [("/api/models/org/one/", "status", (403, {}))]
    assert TOKEN not in refused("org/one@v1", "org/two")


def test_a_hub_that_counts_requests_is_waited_for(models: dict[str, Model], hub: Hub) -> None:
    hub.faults += [("/api/models/org/one", "status", (429, {"Retry-After": "1"}))]
    hub.faults += [("resolve", "status", (503, {}))]
    start = time.monotonic()
    plan(RECIPE)
    assert time.monotonic() - start > 1
    assert hub.faults == []
    hub.faults += [("/api/models/org/base", "status", (429, {"Retry-After": "3600"}))]
    line = refused("org/base", "org/two", status=3)
    assert "org/base: 127.0.0.1" in line
    assert "counts too many requests; wait" in line
    with mock.patch.object(attempts, "_PAUSES", (0.0,)):
        hub.faults += [("/api/models/org/base", "status", (500, {}))] * 2
        assert "answers with status 500" in refused("org/base", "org/two", status=3)


def test_a_connection_that_always_drops(models: dict[str, Model], hub: Hub, home: Path) -> None:
    hub.faults += [("/cdn/", "drop", 0)] * 100
    with mock.patch.object(attempts, "_PAUSES", (0.0,)):
        assert "broke off again and again" in refused("org/one", "org/two", status=3)
    hub.faults.clear()
    plan(RECIPE)
    hub.faults += [("/cdn/", "drop", 0)] * 100
    with mock.patch("time.sleep"), pytest.raises(StorageError, match="finished files are kept"):
        merge(RECIPE, "out")
    assert not Path("out").exists()
    assert not list(home.rglob("*.incomplete"))
    hub.faults.clear()
    merge(RECIPE, "out")


def test_the_commit_of_a_plan_is_merged(models: dict[str, Model], hub: Hub, tmp_path: Path) -> None:
    made = plan(RECIPE)
    hub.directory("org/two", write(tmp_path / "published" / "later", models["base"]))
    merge(made.config, "planned")
    merge({**RECIPE, "models": [{"model": "org/one"}, {"model": "org/two@v1"}]}, "before")
    merge(RECIPE, "after")
    assert data_bytes(Path("planned")) == data_bytes(Path("before"))
    assert data_bytes(Path("planned")) != data_bytes(Path("after"))


def test_a_file_that_is_gone(models: dict[str, Model], hub: Hub) -> None:
    hub.faults += [("HEAD /org/two", "status", (404, {"X-Error-Code": "EntryNotFound"}))]
    with pytest.raises(InputError, match=r"^org/two@\w+/\w+\.\w+: the model has no such file"):
        merge(RECIPE, "out")


def test_too_little_room_is_said_before_a_download(
    models: dict[str, Model], hub: Hub, home: Path
) -> None:
    usage = shutil.disk_usage("/")._replace(free=100_000)
    with (
        mock.patch.object(download.shutil, "disk_usage", return_value=usage),
        pytest.raises(InputError, match=r"the models need 625\.38 kB in this cache"),
    ):
        merge(RECIPE, "out")
    assert not list(home.rglob("*.json"))


def test_files_outside_the_model_are_refused(hub: Hub) -> None:
    for name in ("../config.json", "/etc/config.json", "a/../../b.json", "C:\\x.json"):
        hub.model("org/bad", {"model.safetensors": b"x", name: b"{}"})
        assert "lies outside the model" in refused("org/bad", "org/two")


def test_an_interrupt_ends_a_download_at_once(
    models: dict[str, Model], hub: Hub, home: Path
) -> None:
    plan(RECIPE)
    before = hub.asked("/cdn/")
    request = ["merge", "--method", "linear", "--model", "org/one", "--model", "org/two", "out"]
    hub.faults += [("/cdn/", "slow", 0), ("/cdn/", "slow", 0)] + [("/cdn/", "slow", 20)] * 4
    with subprocess.Popen(
        [*COMMAND, *request],
        stderr=subprocess.PIPE,
        text=True,
        # A shell ignores the signal in what it starts in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:
        while hub.asked("/cdn/") < before + 3:
            time.sleep(0.02)
        start = time.monotonic()
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == 130
        assert time.monotonic() - start < 5
        assert run.stderr and run.stderr.read() == "tallies: interrupted\n"
    assert not list(home.rglob("*.incomplete"))
    assert not Path("out").exists()


def test_without_the_library_a_way_out_is_named(tmp_path: Path) -> None:
    blocked = (
        "import sys; sys.modules['huggingface_hub'] = None; sys.argv[0] = 'tallies'; "
        "from tallies.cli import main; main()"
    )
    arguments = ["plan", "--method", "linear", "--model", "org/one", "--model", "org/two"]
    run = subprocess.run(
        [sys.executable, "-c", blocked, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 2
    assert "org/one: no such file or directory" in run.stderr
    assert "pip install huggingface_hub" in run.stderr


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("hf://org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("hf://gpt2", "gpt2", None),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", None),
    ],
)
def test_names_of_models(text: str, repo: str, revision: str | None) -> None:
    model = names.named(text)
    assert model == HubModel(repo, revision)
    assert names.named(model.text) == model


@pytest.mark.parametrize(
    "text",
    [
        *("", "name", "./org/name", "../org/name", "/org/name", "~/org", "a/b/c", "org/name+lora"),
        *("org/name/", "org/na me", "org/..", "org/name@", "org/-name", "a/b.safetensors"),
    ],
)
def test_texts_that_are_paths(text: str) -> None:
    assert names.named(text) is None


def test_the_commit_of_a_snapshot() -> None:
    commit = "0123456789" * 4
    path = f"/x/hub/models--org--na--me/snapshots/{commit}/unet/config.json"
    assert names.of_snapshot(path.replace("na--me", "name")) == HubModel("org/name", commit)
    assert names.of_snapshot(f"/x/snapshots/{commit}") is None
