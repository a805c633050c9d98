"""Reading the next image and writing the last one while this one is computed. Bounded: a few images are held, not all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1) -> Iterator[Iterator[Result]]:
    """A `with` block around a `map` on threads that keeps the order, works ahead, and holds two results per thread at most.

    The end of the block stops the threads. Were that left to the garbage collector, it could come while another thread
    starts, and both would wait for each other.
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


class Behind:
    """Calls handed over here run one after the other on a thread behind; at most two wait. For a `with` block.

    What a call raises comes out of a later one, or of the end of the block, which waits for all.
    """

    def __enter__(self) -> Behind:
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future] = deque()
        return self

    def __call__(self, function: Callable[..., object], *words: object) -> None:
        while len(self._pending) >= 2:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(function, *words))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the work done so far is kept, but Ctrl-C waits for no more than the call that runs
            self._pool.shutdown(cancel_futures=not issubclass(kind, Exception))
            return
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
