"""Work that several threads do side by side, on items that need not fit into memory together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    begin: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """What the function makes of each item, in their order. `begin` is called once in every thread.

    No more items are in flight than the threads can work on.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
