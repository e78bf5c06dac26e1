"""Work that threads share: in order, a little at a time, with its errors."""

import threading

import pytest

from supernets.side_by_side import side_by_side


def test_results_come_in_the_order_of_the_items():
    waits = [threading.Event() for _ in range(3)]

    def done(i: int) -> int:
        # Whoever comes later is done earlier.
        if i + 1 < len(waits):
            assert waits[i + 1].wait(10)
        waits[i].set()
        return i

    assert list(side_by_side(done, range(3), 3)) == [0, 1, 2]


def test_few_items_are_taken_before_they_are_needed():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    found = side_by_side(lambda i: i, items(), 2)
    assert next(found) == 0
    assert len(taken) <= 6
    assert list(found) == list(range(1, 100))


def test_what_fails_for_an_item_fails_when_its_turn_comes():
    found = side_by_side(lambda i: 1 // i, [1, 0, 1], 2)
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_every_thread_begins_as_it_is_told():
    begun = []
    said = list(
        side_by_side(
            lambda i: threading.get_ident() in begun, range(20), 3, lambda: begun.append(threading.get_ident())
        )
    )
    assert said == [True] * 20
    assert 1 <= len(begun) <= 3
