"""The memory that workers share: what is taken comes back, whatever ends a worker."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from tallies.engine.matrices import Budget


class _End(BaseException):
    pass


@pytest.mark.parametrize("number", range(25))
def test_an_exception_at_any_call_leaves_the_budget_whole(number: int) -> None:
    """As one that another thread raises in a worker, which arrives behind calls."""
    budget = Budget(10)
    left = number

    def end(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        # None arrives between a call of C and its begin, or while a function returns.
        left -= event in ("call", "c_return")
        if left < 0 and event in ("call", "c_return"):
            sys.setprofile(None)
            raise _End

    def take() -> None:
        with budget.taken(10):
            pass

    before = sys.getprofile()
    sys.setprofile(end)
    try:
        take()
    except _End:
        pass
    finally:
        sys.setprofile(before)
    taken = threading.Thread(target=take, daemon=True)
    taken.start()
    taken.join(20)
    assert not taken.is_alive()


def test_workers_wait_for_what_is_left() -> None:
    budget, order = Budget(10), []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with budget.taken(5):
            order.append("second")

    thread = threading.Thread(target=second)
    with budget.taken(8):
        thread.start()
        begun.wait(20)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
