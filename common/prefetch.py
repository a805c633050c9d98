"""Reads the next images and writes the previous ones while one is computed. Bounded: only a few images are in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1
) -> Iterator[Iterator[Result]]:
    """A context manager for an ordered `map` on threads that prefetches at most two results per thread.

    The threads stop at the end of the block. If the garbage collector stopped them, it could do so while another thread
    starts, and the two would deadlock.
    """
    pending: deque[Future[Result]] = deque()

    def results() -> Iterator[Result]:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    with ThreadPoolExecutor(workers) as pool:
        try:
            yield results()
        finally:
            for future in pending:
                future.cancel()


class BackgroundWriter:
    """A context manager that runs the calls given to it in order on a background thread; at most two are pending.

    An exception is raised by a later call or at the end of the block, which waits for all calls.
    """

    def __enter__(self) -> BackgroundWriter:
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future] = deque()
        return self

    def __call__(self, function: Callable[..., object], *args: object) -> None:
        while len(self._pending) >= 2:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(function, *args))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # after an error pending calls still run; Ctrl-C waits for the running one only
            self._pool.shutdown(cancel_futures=not issubclass(kind, Exception))
            return
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
