"""Runs functions side by side, one at a time, so that what they ask for can be done together."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from ..linalg.threads import join, next_of
from .environment import in_float_environment

Ask = Callable[[Any], Any]
"""Asks for something and waits for the answer."""


class Stopped(BaseException):
    """Ends a function that runs beside another one which failed."""


class Turns:
    """A function that runs in turns: each ends when the function asks for something, or ends.

    The function has a thread of its own, because it may ask from any depth of its calls; no two
    threads run at the same time. An error holds the frames that it came through, so none of these
    holds the error: files that are open there would stay so until a collection of garbage.

    Args:
        function: Is called with the function ``ask``, which returns the answer to a request.
    """

    def __init__(self, function: Callable[[Ask], Any]) -> None:
        self._function = function
        # Queues, because an exception that a signal raises may leave other locks locked.
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._turns: SimpleQueue[None] = SimpleQueue()
        self._error: BaseException | None = None
        self._started = False
        self.is_done = False
        self.request: Any = None
        """The request that waits for its answer."""
        self.result: Any = None
        """The function's result, once the function has ended."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)

    def go_on(self, answer: Any = None, refusal: BaseException | None = None) -> None:
        """Run the function until it asks again or ends.

        Args:
            answer: The answer to its last request.
            refusal: An exception that the request raises instead.

        Raises:
            BaseException: The function's own exception.
        """
        if self._started:
            self._answers.put((answer, refusal))
        else:
            self._started = True
            self._thread.start()
        del answer, refusal
        next_of(self._turns)
        if self.is_done:
            join(self._thread)
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error

    def stop(self) -> None:
        """End a function that waits for an answer, or that will ask again."""
        if self._thread.ident is None:
            return
        while not self.is_done:
            if self._answers.empty():
                self._answers.put((None, Stopped()))
            next_of(self._turns)
        join(self._thread)
        self._error = None

    def _ask(self, request: Any) -> Any:
        self.request = request
        self._turns.put(None)
        answer, refusal = self._answers.get()
        self.request = None
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal
        return answer

    def _run(self) -> None:
        try:
            self.result = in_float_environment(self._function)(self._ask)
        except BaseException as error:
            self._error = error
        self.is_done = True
        self._turns.put(None)


class SideBySide:
    """Functions that run side by side; in a ``with``, at whose end all have ended.

    Args:
        functions: Each is called with a function ``ask``.

    Raises:
        BaseException: The first exception of a function. All others end.
    """

    def __init__(self, functions: Sequence[Callable[[Ask], Any]]) -> None:
        self._turns = [Turns(function) for function in functions]

    def __enter__(self) -> SideBySide:
        try:
            for one in self._turns:
                one.go_on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._turns:
            one.stop()

    def waiting(self) -> dict[int, Any]:
        """Return the requests that wait, by the number of their function; none at the end."""
        return {n: one.request for n, one in enumerate(self._turns) if not one.is_done}

    def give(self, answers: Mapping[int, Any]) -> None:
        """Give answers, by the number of the function, and run until all wait again or end."""
        for number, found in answers.items():
            self._turns[number].go_on(found)

    def results(self) -> list[Any]:
        """Hand over the results of the functions, once all have ended; none is kept."""
        found = [one.result for one in self._turns]
        for one in self._turns:
            one.result = None
        return found
