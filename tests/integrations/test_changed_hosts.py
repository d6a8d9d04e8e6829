"""Functions of a host that somebody changed before the seams are installed stay as they are."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tallies.integrations._facts import digest_of
from tallies.integrations._seam import Host, Original, Seam, Source

PACKAGE = "changed_host"
HOME = f"{PACKAGE}.home"
FILES = {
    "__init__.py": "",
    "home.py": """
def double(x):
    return helper(x) + "host"

def helper(x):
    return f"double {x} by "
""",
    "user.py": """
from changed_host.home import double, helper

def run(x):
    return helper(x) + double(x)
""",
    "named_alike.py": """
def double(x):
    return "another"
""",
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
    return f"{x} by ours"


def source(thing: Any, module: str, name: str) -> Source:
    digest = digest_of(thing)
    assert digest
    return Source(module, name, digest)


def host_of(home: ModuleType, *, module: bool = False) -> Host:
    """Return seams of ``double`` at home and of its user, which call ``helper``."""
    user = importlib.import_module(f"{PACKAGE}.user")
    double, run = digest_of(home.double), digest_of(user.run)
    assert double and run
    copied = [source(home, HOME, "")] if module else [source(home.helper, HOME, "helper")]
    seams = [
        Seam(HOME, "double", double, ours, copied),
        Seam(user.__name__, "run", run, ours, [*copied, source(home.double, HOME, "double")]),
    ]
    return Host(PACKAGE, ("1.0",), lambda: seams)


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> str:
        return str(function(*args)) + " in a wrapper"

    return wrapper


def test_a_wrapper_around_the_host_s_function_is_not_the_function(home: ModuleType) -> None:
    host = host_of(home)
    home.double = wrapper = wrapped(home.double)
    with pytest.warns(UserWarning) as told, host.installed():
        assert home.double is wrapper
        assert home.double(1) == "double 1 by host in a wrapper"
    assert all("changed_host.home.double: found source" in str(one.message) for one in told)
    assert home.double is wrapper


def test_a_wrapper_around_ours_calls_the_host_s_function_once_that_is_put_back(
    home: ModuleType,
) -> None:
    host = host_of(home)
    host.install()
    home.double = wrapped(home.double)
    with pytest.warns(UserWarning, match="stands there now and stays"):
        host.uninstall()
    with pytest.warns(UserWarning, match="found source"), host.installed():
        assert home.double(1) == "double 1 by host in a wrapper"


@pytest.mark.parametrize("change", [functools.partial, lambda f: type("Any", (), {"__eq__": None})])
def test_an_object_in_place_of_a_function_is_not_the_function(
    home: ModuleType, change: Any
) -> None:
    host = host_of(home)
    home.helper = change(home.helper)
    before = home.double
    with pytest.warns(UserWarning, match=r"changed_host\.home\.helper: found"), host.installed():
        assert home.double is before


def test_a_name_that_was_changed_where_it_is_used_stays_with_all_that_use_it(
    home: ModuleType,
) -> None:
    user = importlib.import_module(f"{PACKAGE}.user")
    host = host_of(home)
    user.double = theirs = wrapped(user.double)
    run = user.run
    with pytest.warns(UserWarning) as told, host.installed():
        assert home.double(1) == "1 by ours"
        assert user.double is theirs and user.run is run
    texts = [str(one.message) for one in told]
    assert len(texts) == 2
    assert texts[0].startswith("changed_host.user.double: found source")
    assert texts[1] == "changed_host.user.double: changed_host.home.double stands there and stays"


def test_a_copied_function_is_checked_where_it_is_looked_up(home: ModuleType) -> None:
    user = importlib.import_module(f"{PACKAGE}.user")
    host = host_of(home)
    user.helper = lambda x: "theirs "
    with pytest.warns(UserWarning, match=r"changed_host\.user\.helper: found"), host.installed():
        assert user.run(1) == "theirs 1 by ours"


def test_a_module_whose_function_was_changed_is_another(home: ModuleType) -> None:
    host = host_of(home, module=True)
    home.helper = wrapped(home.helper)
    with pytest.warns(UserWarning, match=r"home\.helper: found source of another"):
        host.install()
    assert home.double(1) == "double 1 by  in a wrapperhost"
    host.uninstall()


def test_other_functions_of_that_name_and_functions_of_ours_are_no_change(
    home: ModuleType,
) -> None:
    importlib.import_module(f"{PACKAGE}.named_alike")
    user = importlib.import_module(f"{PACKAGE}.user")
    host = host_of(home)
    run = user.run
    user.run = None
    with pytest.warns(UserWarning, match=r"changed_host\.user\.run: found"):
        host.install()
    user.run = run
    host.install()
    assert user.run(1) == "1 by ours"
    host.uninstall()
    assert user.run is run
