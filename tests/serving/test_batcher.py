"""The queue before the device: what waits is done together, and what is not wanted is dropped."""

from __future__ import annotations

import asyncio
import functools
import operator
import threading
import time

import pytest

from p5jax.serving.http.batcher import Batcher, Late, QueueFull


class Device:
    """Doubles numbers, once it is let."""

    def __init__(self):
        self.open, self.batches = threading.Event(), []

    def double(self, numbers):
        self.open.wait(5)
        self.batches.append(list(numbers))
        return [2 * number for number in numbers]


def run(work, rows: int = 4, waiting: int = 8):
    device, seen = Device(), []

    async def main():
        batcher = Batcher(rows, waiting, lambda *told: seen.append(told))
        try:
            return await work(batcher, device)
        finally:
            device.open.set()
            await asyncio.to_thread(batcher.close)

    return asyncio.run(main()), device, seen


def ask(batcher, device, number, kind="a", seconds=5.0):
    return asyncio.ensure_future(batcher.submit(device.double, kind, number, seconds))


def test_what_waits_is_done_together_by_kind_and_everyone_gets_his_own():
    async def work(batcher, device):
        first = ask(batcher, device, 0)
        await asyncio.sleep(0.05)  # the device has it
        tasks = [ask(batcher, device, n, "ab"[n % 2]) for n in range(1, 8)]
        await asyncio.sleep(0.05)
        device.open.set()
        return await asyncio.gather(first, *tasks)

    found, device, seen = run(work)
    assert found == [2 * n for n in range(8)]
    assert device.batches == [[0], [1, 3, 5, 7], [2, 4, 6]]
    assert [rows for rows, _ in seen] == [1, 4, 3]


def test_more_than_may_wait_is_refused_at_once():
    async def work(batcher, device):
        first = ask(batcher, device, 0)
        await asyncio.sleep(0.05)
        tasks = [ask(batcher, device, n) for n in range(2)]
        await asyncio.sleep(0)
        started = time.monotonic()
        with pytest.raises(QueueFull):
            await batcher.submit(device.double, "a", 9, 5.0)
        assert time.monotonic() - started < 1
        device.open.set()
        return await asyncio.gather(first, *tasks)

    found, device, _ = run(work, waiting=2)
    assert found == [0, 0, 2]
    assert 9 not in functools.reduce(operator.iadd, device.batches, [])


def test_who_is_late_or_gone_is_not_worked_for():
    async def work(batcher, device):
        first = ask(batcher, device, 0)
        await asyncio.sleep(0.05)
        late, gone = ask(batcher, device, 1, seconds=0.05), ask(batcher, device, 2)
        stays = ask(batcher, device, 3)
        await asyncio.sleep(0.01)
        gone.cancel()
        with pytest.raises(Late):
            await late
        device.open.set()
        assert await asyncio.gather(first, stays) == [0, 6]

    _, device, _ = run(work)
    assert device.batches == [[0], [3]]


def test_a_failure_is_its_own_batchs_alone():
    def broken(numbers):
        raise ZeroDivisionError

    async def work(batcher, device):
        device.open.set()
        with pytest.raises(ZeroDivisionError):
            await batcher.submit(broken, "a", 1, 5.0)
        return await ask(batcher, device, 4)

    assert run(work)[0] == 8


def test_what_was_accepted_is_done_before_the_end():
    async def work(batcher, device):
        tasks = [ask(batcher, device, n) for n in range(6)]
        await asyncio.sleep(0.05)
        ending = asyncio.ensure_future(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        device.open.set()
        await ending
        return await asyncio.gather(*tasks)

    assert run(work)[0] == [0, 2, 4, 6, 8, 10]
