"""Requests wait in order for the thread of the view, and only so many."""

import asyncio
import operator
import threading
from functools import partial

import pytest

from pipeline.gateway.endpoint import HttpError
from pipeline.query.view_thread import ViewThread


def test_requests_are_refused_while_too_many_wait_and_the_loop_goes_on() -> None:
    async def scenario() -> list[int]:
        free = threading.Event()
        with ViewThread(max_waiting=3) as thread:
            write = asyncio.create_task(thread.run(free.wait))
            requests = [
                asyncio.create_task(thread.serve(partial(int, number))) for number in range(3)
            ]
            await asyncio.sleep(0)
            with pytest.raises(HttpError) as refused:
                await thread.serve(lambda: 3)
            assert refused.value.status == 429
            assert not any(one.done() for one in requests)
            free.set()
            await write
            served = [await one for one in requests]
            return [*served, await thread.serve(lambda: 4)]

    assert asyncio.run(scenario()) == [0, 1, 2, 4]


def test_exception_of_a_request_is_that_of_its_caller() -> None:
    async def scenario() -> int:
        with ViewThread(max_waiting=1) as thread:
            with pytest.raises(LookupError):
                await thread.serve(partial(operator.getitem, {1: 1}, 2))
            return await thread.serve(lambda: 1)

    assert asyncio.run(scenario()) == 1


def test_all_work_is_done_in_one_thread() -> None:
    with ViewThread() as thread:
        first = thread.call(threading.get_ident)
        later = asyncio.run(thread.run(threading.get_ident))
    assert first == later != threading.get_ident()
