"""Work of threads in the order of its items: bounded, with errors in their places."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from boxwood.files import write_whole
from boxwood.pixels import quiet_decoders
from boxwood.threads import MAX_BYTES, in_order, num_threads, worker_threads


def test_results_come_in_the_order_of_the_items() -> None:
    """The first item takes longest."""

    def work(item: int) -> int:
        time.sleep(0.02 * (item == 0))
        return item**2

    with worker_threads(3) as pool:
        assert list(in_order(pool, work, range(10), ahead=4)) == [item**2 for item in range(10)]
        assert list(in_order(pool, work, [], ahead=4)) == []


@pytest.mark.parametrize(("size", "at_most"), [(0, 5), (MAX_BYTES // 2, 3), (2 * MAX_BYTES, 1)])
def test_no_more_than_some_items_are_taken_ahead(size: int, at_most: int) -> None:
    """Five, or as many as have the allowed bytes together, and the one that exceeds these."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(20):
            taken += 1
            yield item

    with worker_threads(2) as pool:
        ahead = [taken - item for item in in_order(pool, lambda item: item, items(), ahead=5, size=lambda item: size)]
    assert max(ahead) == at_most and taken == 20


def test_an_error_of_the_work_stands_where_its_result_would() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    with worker_threads(2) as pool:
        results = in_order(pool, work, range(6), ahead=3)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="item 2"):
            next(results)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_items_comes_after_the_results_before_it(error: type[BaseException]) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise error

    with worker_threads(2) as pool:
        results = in_order(pool, lambda item: item, items(), ahead=10)
        assert [next(results), next(results), next(results)] == [0, 1, 2]
        with pytest.raises(error):
            next(results)


def test_tasks_that_wait_are_dropped_where_the_block_is_left() -> None:
    done: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.set()
        go_on.wait(10)
        done.append(item)

    def interrupted() -> None:
        with worker_threads(1) as pool:
            for item in range(5):
                pool.submit(work, item)
            begun.wait(10)
            threading.Timer(0.05, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0] and not any(thread.name.startswith("boxwood") for thread in threading.enumerate())


def test_torch_has_one_thread_in_each_worker_and_as_many_as_before_elsewhere() -> None:
    before = torch.get_num_threads()
    with worker_threads(2) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == before
    assert 1 <= num_threads() <= 8


def test_warnings_of_decoders_in_several_threads_leave_the_filters_as_they_were() -> None:
    def decode(name: int) -> None:
        with quiet_decoders:
            barrier.wait(10)
            time.sleep(0.002 * name)
            warnings.warn_explicit("odd EXIF", UserWarning, "Image.py", 1, module="PIL.Image")

    before = list(warnings.filters)
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode, range(4)))
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="odd EXIF"):
        warnings.warn_explicit("odd EXIF", UserWarning, "Image.py", 1, module="PIL.Image")


def test_files_whose_long_names_begin_alike_are_written_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def write(number: int) -> None:
        def fill(path: Path) -> None:
            barrier.wait(10)  # both temporary files are there
            path.write_text(str(number))

        write_whole(tmp_path / f"{'a' * 60}{number}", fill)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    assert {path.name[-1]: path.read_text() for path in tmp_path.iterdir()} == {"0": "0", "1": "1"}
