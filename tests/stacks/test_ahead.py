"""What is read ahead comes in order, whatever happens."""

import threading
import time

import pytest

from cellxlate.prefetch import FoundOnce, ahead


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


def test_what_several_threads_want_is_found_by_one_of_them() -> None:
    begun, free, calls = threading.Event(), threading.Event(), []

    def find() -> str:
        calls.append(1)
        begun.set()
        assert free.wait(10)
        return "found"

    kept, results = FoundOnce[str](2), []
    threads = [threading.Thread(target=lambda: results.append(kept("key", find))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    free.set()
    for thread in threads:
        thread.join()
    assert results == ["found"] * 3
    assert len(calls) == 1


def test_what_was_asked_for_last_is_kept_by_size_and_the_newest_always() -> None:
    kept, calls = FoundOnce[int](5), []

    def find(number: int) -> int:
        calls.append(number)
        return number

    for number in (1, 2, 1, 3, 1, 2):
        assert kept(number, lambda number=number: find(number), size=2) == number  # type: ignore[misc]
    assert calls == [1, 2, 3, 2]
    assert len(kept) == 2
    assert kept(9, lambda: find(9), size=50) == 9
    assert len(kept) == 1


def test_what_could_not_be_found_is_tried_again() -> None:
    kept = FoundOnce[int](2)
    with pytest.raises(ZeroDivisionError):
        kept("key", lambda: 1 // 0)
    assert len(kept) == 0
    assert kept("key", lambda: 7) == 7
