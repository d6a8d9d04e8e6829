"""Functions that run in turns, and the ends of those beside one that fails."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tallies.engine.side_by_side import SideBySide

Ask = Callable[[Any], Any]


def test_answers_reach_who_asked() -> None:
    running: list[int] = []

    def asking(number: int) -> Callable[[Ask], list[int]]:
        def run(ask: Ask) -> list[int]:
            found = []
            for i in range(number + 1):
                assert not running, "two functions run at the same time"
                running.append(number)
                running.clear()
                found.append(ask((number, i)))
            return found

        return run

    with SideBySide([asking(number) for number in range(4)]) as side:
        rounds = []
        while waiting := side.waiting():
            rounds.append(dict(waiting))
            side.give({n: 10 * asked[0] + asked[1] for n, asked in waiting.items()})
        assert side.results() == [[0], [10, 11], [20, 21, 22], [30, 31, 32, 33]]
    assert rounds[1] == {1: (1, 1), 2: (2, 1), 3: (3, 1)}


def test_some_may_wait_longer() -> None:
    with SideBySide([lambda ask: ask("a"), lambda ask: ask("b")]) as side:
        side.give({1: 2})
        assert side.waiting() == {0: "a"}
        side.give({0: 1})
        assert side.waiting() == {}
        assert side.results() == [1, 2]


@pytest.mark.parametrize("at", ["start", "later", "outside"])
def test_all_end_when_one_fails(at: str) -> None:
    cleaned: list[int] = []
    before = threading.active_count()

    def run(number: int) -> Callable[[Ask], None]:
        def asking(ask: Ask) -> None:
            try:
                if at == "start" and number == 2:
                    raise KeyError(number)
                ask(0)
                if at == "later" and number == 1:
                    raise KeyError(number)
                ask(1)
            finally:
                cleaned.append(number)

        return asking

    with (
        pytest.raises(KeyError),
        SideBySide([run(number) for number in range(4)]) as side,
    ):
        side.give(dict.fromkeys(side.waiting(), 0))
        raise KeyError
    # Those that had not begun have nothing to clean.
    assert sorted(cleaned) == ([0, 1, 2] if at == "start" else [0, 1, 2, 3])
    assert threading.active_count() == before


def test_an_interruption_ends_a_function_that_runs() -> None:
    """The signal comes while a function runs on, and neither waits for an answer."""
    ended: list[bool] = []

    def run(ask: Ask) -> None:
        try:
            ask(1)
            threading.Timer(0.05, signal.raise_signal, [signal.SIGUSR1]).start()
            time.sleep(0.4)
            ask(2)
        finally:
            ended.append(True)

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), SideBySide([run]) as side:
            side.give({0: None})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended == [True]
