"""Prefetching and background writes: in order, bounded, and no error is lost."""

import threading

import pytest

from common.prefetch import BackgroundWriter, prefetch_map


def test_results_come_in_order_and_only_a_few_are_read_ahead():
    read = []
    with prefetch_map(lambda number: read.append(number) or number, range(100), workers=2) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert len(read) <= 3 + 4
    assert len(read) < 100


def test_what_reading_raises_comes_at_its_place():
    with prefetch_map(lambda number: 1 // number, [1, 0]) as results:
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_threads_end_with_the_block_though_an_error_keeps_the_results():
    before = set(threading.enumerate())
    with pytest.raises(KeyError) as kept, prefetch_map(abs, range(100)) as results:
        next(results)
        raise KeyError
    assert kept.tb is not None and set(threading.enumerate()) <= before


def test_background_calls_run_in_order_on_another_thread():
    done = []
    with BackgroundWriter() as writer:
        for number in range(20):
            writer(lambda number=number: done.append((number, threading.current_thread())))
    assert [number for number, _ in done] == list(range(20))
    assert threading.current_thread() not in {thread for _, thread in done}


def test_what_a_background_call_raises_is_not_lost():
    with pytest.raises(ZeroDivisionError), BackgroundWriter() as writer:
        writer(lambda: 1 // 0)


def test_what_was_handed_over_is_done_though_the_block_fails():
    done = []
    with pytest.raises(KeyError), BackgroundWriter() as writer:
        for number in range(2):
            writer(done.append, number)
        raise KeyError
    assert done == [0, 1]
