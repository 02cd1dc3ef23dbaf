"""Who is refused at the queue, at once: a full one, bytes, a share that is used up, a closed one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from service.batching.policy import Class
from service.errors import DeadlinePassed, NotReady, QueueFull, ShareUsedUp

from .fake import Network, Number, Queues, play, solo


def test_a_full_queue_refuses_at_once_and_says_when() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        asked = [here.ask(n, caller=f"caller{n}") for n in range(8)]
        await here.queued(8)
        with pytest.raises(QueueFull) as refused:
            await asyncio.wait_for(here.ask(9, caller="late"), 1.0)
        assert refused.value.retry_after_s >= 1
        assert refused.value.limit == 8
        assert here.sample("shed_total", reason="QueueFull") == 1
        assert here.sample("queue_rows", network="lift") == 8
        with pytest.raises(QueueFull):  # and who knocks is told so before there is a row
            here.batchers["lift"].knock("late")
        assert here.sample("shed_total", reason="QueueFull") == 2
        network.gate.set()
        await asyncio.gather(*asked)
        here.batchers["lift"].knock("late")
        assert await here.ask(9, caller="late") == solo(9)
        assert network.computed.count(9) == 1

    play(story, rows=8)


def test_pictures_that_wait_are_bounded_in_bytes_and_shared_ones_count_once() -> None:
    async def story(here: Queues, network: Network) -> None:
        line = here.batchers["lift"].line
        line.limits = replace(line.limits, bytes=100)
        await here.occupy()
        photo = np.zeros(60, np.uint8)
        group = here.ask(*(Number(n, holds=photo) for n in (1, 2, 3)), caller="a")
        await here.queued(3)
        assert line.bytes == 60
        with pytest.raises(QueueFull, match="60 of 100 bytes"):
            await here.ask(Number(4, holds=np.zeros(41, np.uint8)), caller="b")
        assert here.sample("shed_total", reason="QueueFull") == 1
        leaver = here.ask(Number(5, holds=np.zeros(40, np.uint8)), caller="c")
        await here.queued(4)
        leaver.cancel()
        await here.queued(3)
        assert line.bytes == 60
        network.gate.set()
        assert await group == solo(1, 2, 3)
        assert line.bytes == 0

    play(story)


def test_a_share_is_refused_only_while_others_wait() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        greedy = here.ask(*range(1, 7), caller="greedy")
        await here.queued(6)
        other = here.ask(7, caller="other")
        await here.queued(7)
        with pytest.raises(ShareUsedUp) as refused:
            await here.ask(8, caller="greedy")
        assert refused.value.limit == 4
        assert here.sample("shed_total", reason="ShareUsedUp") == 1
        network.gate.set()
        assert await greedy == solo(*range(1, 7))
        assert await other == solo(7)

    play(story, rows=8)


def test_the_time_to_come_back_follows_the_measured_rate() -> None:
    async def story(here: Queues, network: Network) -> None:
        batcher = here.batchers["lift"]
        await here.ask(*range(20))
        assert (batcher.rows_per_s or 0.0) > 0
        await here.occupy()
        batcher.rows_per_s = 0.5
        waiting = here.ask(*range(8), caller="b")
        await here.queued(8)
        with pytest.raises(QueueFull) as refused:
            await here.ask(1)
        assert refused.value.retry_after_s == 16
        network.gate.set()
        await waiting

    play(story, rows=8)


def test_a_closed_queue_takes_nobody_and_serves_who_is_in() -> None:
    async def story(here: Queues, network: Network) -> None:
        await here.occupy()
        inside = here.ask(1, 2)
        await here.queued(2)
        here.batchers["lift"].close()
        with pytest.raises(NotReady):
            await here.ask(3)
        assert here.sample("shed_total", reason="NotReady") == 1
        network.gate.set()
        assert await inside == solo(1, 2)
        assert 3 not in network.computed

    play(story)


async def crowded(here: Queues) -> list[asyncio.Task[list[float]]]:
    """The device busy, and a full line of eight callers before it."""
    await here.occupy()
    crowd = [here.ask(n, caller=f"caller{n}") for n in range(1, 9)]
    await here.queued(8)
    return crowd


def test_a_clip_that_was_let_in_waits_for_room_and_is_not_broken_off() -> None:
    async def story(here: Queues, network: Network) -> None:
        crowd = await crowded(here)
        clips = [here.ask(n, n + 1, caller="clips", klass=Class.CLIP) for n in (20, 30)]
        await asyncio.sleep(0.02)
        assert not any(clip.done() for clip in clips) and here.batchers["lift"].line.rows == 8
        assert here.sample("shed_total", reason="QueueFull") == 0
        with pytest.raises(QueueFull):  # others do not wait
            await here.ask(9, caller="late")
        network.gate.set()
        assert [await clip for clip in clips] == [solo(20, 21), solo(30, 31)]
        await asyncio.gather(*crowd)

    play(story, rows=8)


def test_a_clip_waits_for_room_no_longer_than_its_deadline() -> None:
    async def story(here: Queues, network: Network) -> None:
        crowd = await crowded(here)
        with pytest.raises(DeadlinePassed):
            await here.ask(20, caller="clips", klass=Class.CLIP, seconds=0.02)
        network.gate.set()
        await asyncio.gather(*crowd)
        assert 20 not in network.computed

    play(story, rows=8)


def test_a_clip_that_waits_for_room_hears_of_the_end() -> None:
    async def story(here: Queues, network: Network) -> None:
        crowd = await crowded(here)
        clip = here.ask(20, caller="clips", klass=Class.CLIP)
        await asyncio.sleep(0.02)
        here.batchers["lift"].close()
        with pytest.raises(NotReady):
            await asyncio.wait_for(clip, 1.0)
        network.gate.set()
        assert await asyncio.gather(*crowd) == [solo(n) for n in range(1, 9)]

    play(story, rows=8)


def test_a_clip_whose_caller_leaves_while_it_waits_for_room_is_forgotten() -> None:
    async def story(here: Queues, network: Network) -> None:
        crowd = await crowded(here)
        clip = here.ask(20, caller="clips", klass=Class.CLIP)
        await asyncio.sleep(0.02)
        clip.cancel()
        network.gate.set()
        await asyncio.gather(*crowd)
        assert 20 not in network.computed
        assert here.sample("abandoned_total") == 1

    play(story, rows=8)
