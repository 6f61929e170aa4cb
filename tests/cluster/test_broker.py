from __future__ import annotations

import asyncio
import time

from fake_stages import node

from gkd_bench.cluster.broker import Broker
from gkd_bench.stages.monitor import Outcome, Progress


def test_a_waiting_group_gets_work_the_moment_it_comes() -> None:
    async def story() -> float:
        broker = Broker()
        asking = asyncio.create_task(broker.take("g", None, 10.0))
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        await broker.submit([node()], "driver", 0, ())
        assert (await asking).node == node()
        return time.monotonic() - begun

    assert asyncio.run(story()) < 0.5


def test_take_comes_back_empty_after_its_time() -> None:
    async def story() -> None:
        answer = await Broker().take("g", None, 0.05)
        assert answer.node is None and not answer.closed

    asyncio.run(story())


def test_two_waiting_groups_share_two_stages() -> None:
    async def story() -> None:
        broker = Broker()
        asking = [asyncio.create_task(broker.take(f"g{i}", None, 5.0)) for i in range(2)]
        await asyncio.sleep(0.01)
        await broker.submit([node(seed=0), node(seed=1)], "driver", 0, ())
        answers = [answer.node for answer in await asyncio.gather(*asking)]
        assert {stage.seed for stage in answers if stage} == {0, 1}

    asyncio.run(story())


def test_poll_waits_for_news_of_its_own_stages_only() -> None:
    async def story() -> None:
        broker = Broker()
        stage, other = node(seed=0), node(seed=1)
        await broker.submit([stage, other], "driver", 0, ())
        await broker.take("g", None, 1.0)
        upto = (await broker.poll({stage.key: 0}, 1.0)).stages[stage.key].upto
        listening = asyncio.create_task(broker.poll({stage.key: upto}, 5.0))
        await broker.take("h", None, 1.0)
        await asyncio.sleep(0.02)
        assert not listening.done()
        await broker.report("g", stage.key, Progress(1, 2))
        news = (await listening).stages[stage.key]
        assert [event.kind for event in news.events] == ["progress"] and news.settled is None
        await broker.finish("g", stage.key, Outcome("done"))
        assert (await broker.poll({stage.key: news.upto}, 5.0)).stages[stage.key].settled == Outcome("done")

    asyncio.run(story())


def test_close_sends_groups_home_and_stops_running_stages() -> None:
    async def story() -> None:
        broker = Broker()
        await broker.submit([node(seed=0), node(seed=1)], "driver", 0, ())
        await broker.take("busy", None, 1.0)
        assert not await broker.heartbeat("busy", node(seed=0).key, 0, 0)
        await broker.close()
        assert (await broker.take("idle", None, 5.0)).closed
        assert await broker.heartbeat("busy", node(seed=0).key, 0, 0)

    asyncio.run(story())


def test_the_first_fatal_cause_reaches_everybody_who_waits() -> None:
    async def story() -> None:
        broker = Broker()
        await broker.submit([node()], "driver", 0, ())
        upto = (await broker.poll({node().key: 0}, 1.0)).stages[node().key].upto
        listening = asyncio.create_task(broker.poll({node().key: upto}, 5.0))
        await asyncio.sleep(0)
        await broker.give_up("no GPU")
        await broker.give_up("later")
        assert (await listening).fatal == "no GPU"

    asyncio.run(story())
