"""Functions of a host replaced call by call and put back, on a host that is written here."""

from __future__ import annotations

import contextvars
import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tallies.errors import InputError
from tallies.integrations._facts import digest_of
from tallies.integrations._seam import HandOver, Host, Original, Seam, Source

PACKAGE = "made_up_host"
HOME = f"{PACKAGE}.home"
FILES = {
    "__init__.py": "",
    "home.py": """
def double(x):
    return helper(x) + "host"

def helper(x):
    return f"double {x} by "

class Method:
    def run(self, x):
        return f"run {x} by host"
""",
    "user.py": "from made_up_host.home import double as twice\n",
    "late.py": "from made_up_host.home import double\n",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (tmp_path / f"{PACKAGE}-1.0.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n"
    (tmp_path / f"{PACKAGE}-1.0.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(HOME)
    for name in [one for one in sys.modules if one.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def ours(original: Original, x: Any) -> str:
    if x == "odd":
        raise HandOver("odd")
    if x == "wrong":
        raise InputError("x: found wrong, expected right; give another")
    return f"double {x} by ours, {'exact' if original.exact else 'rounded'}"


def ours_of_method(original: Original, method: Any, x: Any) -> str:
    return f"run {x} by ours"


def seams_of(home: ModuleType, **changed: Any) -> list[Seam]:
    double, helper = digest_of(home.double), digest_of(home.helper)
    run = digest_of(home.Method.run)
    assert double and helper and run
    copied = [Source(HOME, "helper", changed.get("helper", helper))]
    return [
        Seam(HOME, "double", changed.get("double", double), ours, copied),
        Seam(HOME, "Method.run", run, ours_of_method, exact=changed.get("exact", True)),
    ]


def host_of(home: ModuleType, *, versions: tuple[str, ...] = ("1.0",), **changed: Any) -> Host:
    seams = seams_of(home, **changed)
    return Host(PACKAGE, versions, lambda: seams)


def test_every_module_that_bound_the_name_is_served_and_gets_the_host_s_function_back(
    home: ModuleType,
) -> None:
    user = importlib.import_module(f"{PACKAGE}.user")
    before, method = home.double, home.Method.run
    host = host_of(home)
    host.install()
    late = importlib.import_module(f"{PACKAGE}.late")
    assert {home.double("a"), user.twice("a"), late.double("a")} == {"double a by ours, exact"}
    assert home.Method().run("a") == "run a by ours"
    host.uninstall()
    assert home.double is user.twice is late.double is before
    assert home.Method.run is method
    assert host.calls() == {"ours": 4}


def test_a_call_goes_to_the_host_for_a_reason_that_is_counted(home: ModuleType) -> None:
    host = host_of(home)
    with host.installed():
        assert home.double("odd") == "double odd by host"
        assert home.double("wrong") == "double wrong by host"
        with pytest.raises(TypeError, match=r"double\(\) missing 1 required positional argument"):
            home.double()
        assert home.double(x=1) == "double 1 by ours, exact"
    assert host.calls() == {"ours": 1, "odd": 1, "refused": 1, "arguments": 1}
    assert host.calls(f"{HOME}.Method.run") == {"ours": 0}


def test_blocks_nest_and_the_innermost_says_how_exact(home: ModuleType) -> None:
    before = home.double
    host = host_of(home)
    with host.installed():
        with host.installed(exact=False):
            assert home.double(1) == "double 1 by ours, rounded"
        assert home.double(1) == "double 1 by ours, exact"
        host.install()
        host.install()
        host.uninstall()
        assert home.double(1) == "double 1 by ours, exact"
    assert home.double is before
    host.uninstall()
    assert home.double is before


def test_a_seam_within_rounding_is_the_host_s_unless_asked_for(home: ModuleType) -> None:
    host = host_of(home, exact=False)
    with host.installed():
        assert home.Method().run(1) == "run 1 by host"
        assert host.calls() == {"ours": 0, "within rounding only": 1}
        with host.installed(exact=False):
            assert home.Method().run(1) == "run 1 by ours"


@pytest.mark.parametrize("changed", ["double", "helper"])
def test_a_changed_source_keeps_the_host_s_own_path_with_a_warning(
    home: ModuleType, changed: str
) -> None:
    before = home.double
    host = host_of(home, **{changed: "0" * 16})
    with (
        pytest.warns(UserWarning, match=rf"{HOME}\.{changed}: found source .* expected 0000"),
        host.installed(),
    ):
        assert home.double is before
        assert home.Method().run(1) == "run 1 by ours"
    with host.installed(force=True):
        assert home.double(1) == "double 1 by ours, exact"
    assert home.double is before


def test_an_unknown_version_keeps_all_of_the_host_s_functions_with_a_warning(
    home: ModuleType,
) -> None:
    before = home.double
    host = host_of(home, versions=("0.8", "0.9"))
    with pytest.warns(UserWarning, match="made_up_host 1.0: tested with 0.8, 0.9 only"):
        host.install()
    assert home.double is before
    host.install(force=True)
    assert home.double(1) == "double 1 by ours, exact"
    host.uninstall()
    assert home.double is before


def test_a_warning_that_is_an_error_leaves_nothing_installed(home: ModuleType) -> None:
    before = home.Method.run
    host = host_of(home, double="0" * 16)
    with pytest.raises(UserWarning, match="found source"):
        host.install()
    assert home.Method.run is before


def test_a_function_that_is_gone_is_named(home: ModuleType) -> None:
    host = host_of(home)
    del home.double
    with pytest.warns(UserWarning, match=rf"{HOME}\.double: found source missing"):
        host.install()
    host.uninstall()


def test_uninstalling_leaves_what_somebody_else_put_there_and_names_it(home: ModuleType) -> None:
    user = importlib.import_module(f"{PACKAGE}.user")
    before = home.double
    host = host_of(home)
    host.install()
    tallies_function = home.double

    def theirs(x: Any) -> str:
        return str(tallies_function(x)) + " under theirs"

    home.double = theirs
    with pytest.warns(UserWarning, match=rf"{HOME}\.double: .*theirs stands there now and stays"):
        host.uninstall()
    assert home.double is theirs
    assert user.twice is before
    assert home.double(1) == "double 1 by host under theirs"


def test_a_host_that_is_not_installed_is_refused_with_the_command_of_pip() -> None:
    host = Host("no_such_host", ("2.1",), list, distribution="no-such-host")
    with pytest.raises(InputError, match=r"run pip install 'no-such-host==2.1'"):
        host.install()
    with pytest.raises(InputError, match="no_such_host: found no such package"), host.installed():
        pass


def test_threads_count_every_call_and_leave_the_host_as_it_was(home: ModuleType) -> None:
    before = home.double
    host = host_of(home)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(200):
            with host.installed():
                if home.double(1) != "double 1 by ours, exact":
                    wrong.append("host")

    with host.installed():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert not wrong
    assert host.calls() == {"ours": 800}
    assert home.double is before


def test_each_thread_is_as_exact_as_its_own_block_or_the_installation(home: ModuleType) -> None:
    host = host_of(home)
    found: dict[str, str] = {}
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        found["no block yet"] = home.double(1)
        with host.installed(exact=False):
            found["other"] = home.double(1)
            inside.set()
            done.wait()

    thread = threading.Thread(target=other)
    with host.installed():
        thread.start()
        inside.wait()
        assert home.double(1) == "double 1 by ours, exact"
        host.install(exact=False)
        assert home.double(1) == "double 1 by ours, exact"
        done.set()
        thread.join()
    assert found == {
        "no block yet": "double 1 by ours, exact",
        "other": "double 1 by ours, rounded",
    }
    assert home.double(1) == "double 1 by ours, rounded"
    host.uninstall()


def test_helper_threads_of_an_inexact_block_are_inexact(home: ModuleType) -> None:
    host = host_of(home)
    with host.installed(exact=False), ThreadPoolExecutor(2) as threads:
        assert {*threads.map(home.double, [1, 1])} == {"double 1 by ours, rounded"}


def test_blocks_that_end_in_another_order_leave_the_host_as_it_was(home: ModuleType) -> None:
    before = home.double
    host = host_of(home)
    first, second = host.installed(), host.installed(exact=False)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert home.double(1) == "double 1 by ours, rounded"
    contextvars.copy_context().run(second.__exit__, None, None, None)
    assert home.double is before
    with host.installed():
        assert home.double(1) == "double 1 by ours, exact"


def test_importing_the_seams_imports_neither_host_nor_torch() -> None:
    code = (
        "import sys, tallies.integrations._seam\n"
        "print([one for one in ('torch', 'numpy', 'mergekit', 'peft') if one in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
