"""What is read ahead comes in order, whatever happens."""

import threading
import time

import pytest

from cellxlate.prefetch import ahead


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number**2

    assert list(ahead(slow_at_first, range(7), threads=threads)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(ahead(slow_at_first, [], threads=threads)) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_items_are_taken_than_threads_need(threads: int) -> None:
    taken: list[int] = []
    results = ahead(lambda number: number, (taken.append(number) or number for number in range(100)), threads=threads)
    for number in range(5):
        assert next(results) == number
        assert len(taken) <= number + 1 + threads
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 5 + threads


def test_a_fault_is_raised_at_its_place_and_leaves_no_thread() -> None:
    before = threading.active_count()
    results = ahead(lambda number: 12 // number, [3, 2, 0, 1])
    assert next(results) == 4
    assert next(results) == 6
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_closing_waits_for_the_call_that_runs() -> None:
    done: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.05 if number else 0)
        done.append(number)

    results = ahead(slow, range(9))
    next(results)
    results.close()  # type: ignore[attr-defined]
    known = list(done)
    time.sleep(0.1)
    assert done == known  # nothing is called behind the caller's back
