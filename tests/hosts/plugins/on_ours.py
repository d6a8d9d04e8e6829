"""Run another tool's own tests on our kernels: a pytest plugin.

``-p on_ours --host peft`` installs ``tallies.integrations.peft`` before any test is collected, and
says at the end which calls were ours. ``--inexact`` installs it with ``exact=False``.
"""

from __future__ import annotations

import importlib
import json
from typing import Any


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--host", required=True)
    parser.addoption("--inexact", action="store_true")


def pytest_configure(config: Any) -> None:
    host = config.getoption("--host")
    importlib.import_module(f"tallies.integrations.{host}").install(
        exact=not config.getoption("--inexact")
    )


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    host = importlib.import_module(f"tallies.integrations.{config.getoption('--host')}")
    terminalreporter.write_line(f"calls: {json.dumps(host.calls())}")
