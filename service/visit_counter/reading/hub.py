"""The hub: once a second it looks at the counts that somebody watches, and tells those who watch.

All who watch the same counts are told by the same bytes, made once. Nobody is waited for: who does
not read keeps one message to be sent, the newest (`Mailbox`), for counts are a state and not a log.
While the store is away the last counts stay, marked as stale.

Each different page that somebody watches costs a read a tick, and strangers choose pages. So their
number is bounded, in all and for each client network, and a tick has an order: sites, then pages
that many watch, then in the rest of its time the other pages, each in its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from time import perf_counter
from typing import NamedTuple, Protocol, Self

from visit_counter import logs, metrics
from visit_counter.clock import Clock
from visit_counter.errors import StoreError
from visit_counter.model.site import Site
from visit_counter.reading.reader import Asked, Reader, Reading
from visit_counter.reading.sites import Sites
from visit_counter.rules.shares import Blocks, Shares
from visit_counter.tasks import supervised

TICK_S = 1.0
FRESH_MS = 500  # less than a tick, so that each tick sees what came since the last
BEAT_S = 20.0  # without news a sign of life: proxies end what is silent, and a dead peer is noticed
STALE_MS = 5000
AT_ONCE = 100  # counts that are read
# Of one address; the networks around it may have more (rules/shares.py).
MOST_AT_ONE = 200  # viewers
PAGES_AT_ONE = 50  # pages that nobody else watched when they came
MOST_PAGES = 2500
MANY = 3  # viewers of a page
MOST_OF_MANY = 100  # pages that are looked at in each tick, the most watched ones
PAGES_S = 0.4  # of a tick, from its beginning: pages after that wait for the next
IN_A_ROW = 500  # viewers who are told before hits have their turn
TURN_S = 0.002  # that is longer where there are many hits


class Watched(NamedTuple):
    """What somebody watches: a site's id, and a page of it or None."""

    site: str
    path: str | None
    hidden: bool = False
    """The site was not public when this began: whoever watches may see it nevertheless."""


class Message(NamedTuple):
    """News for all who were last told something of another tag."""

    tag: str
    data: bytes


class Viewer(Protocol):
    """Who is told; none of this waits."""

    blocks: Blocks
    """The client networks that it counts for."""

    def tell(self, message: Message) -> None:
        """Nothing happens if it has been told so already."""

    def beat(self) -> None:
        """Give a sign of life."""

    def end(self) -> None:
        """There is nothing more to watch."""


class Mailbox:
    """What one reader is to be sent: while it does not read, only the newest is kept."""

    __slots__ = ("_newest", "stalled")

    def __init__(self) -> None:
        self.stalled = False
        self._newest: bytes | None = None

    def put(self, data: bytes) -> bytes | None:
        """What to send now."""
        if not self.stalled:
            return data
        if self._newest is not None:
            metrics.LIVE_SKIPPED.inc()
        self._newest = data
        return None

    def take(self) -> bytes | None:
        """What to send now that the reader reads again."""
        self.stalled = False
        newest, self._newest = self._newest, None
        return newest


class Channel:
    """All who watch the same counts, and when they were last told something."""

    __slots__ = ("blocks", "looked_s", "spoke_s", "tag", "viewers")

    def __init__(self, now_s: float, blocks: Blocks) -> None:
        self.viewers: set[Viewer] = set()
        self.tag = ""
        self.spoke_s = self.looked_s = now_s
        self.blocks = blocks
        """The networks that asked for it first: it counts as one of their pages."""


Render = Callable[[Site, Reading, str | None, bool], Message]


class Hub:
    """Who watches what; `render` writes counts down, the last argument says that they are stale."""

    def __init__(
        self, sites: Sites, reader: Reader, clock: Clock, render: Render, most: int
    ) -> None:
        self._sites = sites
        self._reader = reader
        self._clock = clock
        self._render = render
        self._most = most
        self._channels: dict[Watched, Channel] = {}
        self._viewers = self._pages = 0
        self._viewers_of, self._pages_of = Shares(), Shares()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = supervised(self._run, "hub")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for channel in self._channels.values():
            end(channel)

    def limit(self, watched: Watched, blocks: Blocks) -> str:
        """Which bound keeps a viewer out: all, network, pages, network_pages; empty if none."""
        if self._stopping or self._viewers >= self._most:
            return "all"
        if not self._viewers_of.have_room(blocks, MOST_AT_ONE):
            return "network"
        if watched.path is None or watched in self._channels:
            return ""
        if self._pages >= MOST_PAGES:
            return "pages"
        return "" if self._pages_of.have_room(blocks, PAGES_AT_ONE) else "network_pages"

    async def look(self, site: Site, path: str | None) -> Message:
        """What is to be seen now; raises StoreError."""
        return self._message(site, path, await self._reader.read(site, Asked(path)))

    def join(self, watched: Watched, viewer: Viewer) -> bool:
        """False if others have taken the room meanwhile."""
        if self.limit(watched, viewer.blocks):
            return False
        channel = self._channels.get(watched)
        if channel is None:
            now_s = asyncio.get_running_loop().time()
            channel = self._channels[watched] = Channel(now_s, viewer.blocks)
            self._count_page(watched, channel, +1)
        channel.viewers.add(viewer)
        self._viewers_of.take(viewer.blocks)
        self._count(+1)
        return True

    def leave(self, watched: Watched, viewer: Viewer) -> None:
        channel = self._channels[watched]
        channel.viewers.remove(viewer)
        self._viewers_of.give_back(viewer.blocks)
        self._count(-1)
        if not channel.viewers:
            del self._channels[watched]
            self._count_page(watched, channel, -1)

    def _count(self, change: int) -> None:
        self._viewers += change
        metrics.LIVE_STREAMS.set(self._viewers)

    def _count_page(self, watched: Watched, channel: Channel, change: int) -> None:
        if watched.path is None:
            return
        if change > 0:
            self._pages_of.take(channel.blocks)
        else:
            self._pages_of.give_back(channel.blocks)
        self._pages += change
        metrics.LIVE_PAGES.set(self._pages)

    async def _run(self) -> None:
        """Ticks take at most half of the time, however many there are to tell."""
        while True:
            began_s = perf_counter()
            await self._tick()
            took_s = perf_counter() - began_s
            metrics.LIVE_TICK_SECONDS.observe(took_s)
            await asyncio.sleep(max(TICK_S - took_s, took_s))

    async def _tick(self) -> None:
        began_s = perf_counter()
        first, rest = in_turn(self._channels.items())
        for some in parts(first, AT_ONCE):
            await self._turns(some)
        for some in parts(rest, AT_ONCE):  # some in any case, however long the first took
            await self._turns(some)
            if perf_counter() - began_s > PAGES_S * TICK_S:
                break

    async def _turns(self, channels: Iterable[Listening]) -> None:
        await asyncio.gather(*(self._turn(*each) for each in channels))

    async def _turn(self, watched: Watched, channel: Channel) -> None:
        channel.looked_s = asyncio.get_running_loop().time()
        site = self._sites.get(watched.site)
        if site is None or not (site.settings.public or watched.hidden):
            end(channel)
            return
        try:
            reading = await self._reader.read(site, Asked(watched.path), FRESH_MS)
            await self._publish(channel, self._message(site, watched.path, reading))
        except StoreError:  # not even old counts
            pass
        except Exception as error:  # a bug of this service: the others are told
            logs.mistake("viewers were not told", error, site=watched.site)

    def _message(self, site: Site, path: str | None, reading: Reading) -> Message:
        stale = self._clock.now() - reading.as_of > STALE_MS
        return self._render(site, reading, path, stale)

    async def _publish(self, channel: Channel, message: Message) -> None:
        now_s = asyncio.get_running_loop().time()
        beats = message.tag == channel.tag and now_s - channel.spoke_s >= BEAT_S
        if beats or message.tag != channel.tag:
            channel.tag, channel.spoke_s = message.tag, now_s
        viewers, in_a_row = [*channel.viewers], IN_A_ROW
        while viewers:
            for viewer in channel.viewers.intersection(viewers[:in_a_row]):  # who are still there
                viewer.tell(message)
                if beats:
                    viewer.beat()
            del viewers[:in_a_row]
            if await turn_of_others() > TURN_S:
                in_a_row *= 2  # hits are late anyhow, and viewers shall not be


Listening = tuple[Watched, Channel]


def in_turn(channels: Iterable[Listening]) -> tuple[list[Listening], list[Listening]]:
    """Whom each tick tells, and whom it tells as far as its time goes: who has waited longest comes
    first."""
    first, pages = list[Listening](), list[Listening]()
    for each in channels:
        (first if each[0].path is None else pages).append(each)
    many = [each for each in pages if len(each[1].viewers) >= MANY]
    many = nlargest(MOST_OF_MANY, many, key=lambda each: len(each[1].viewers))
    chosen = {each[0] for each in many}
    rest = [each for each in pages if each[0] not in chosen]
    return first + many, sorted(rest, key=lambda each: each[1].looked_s)


def parts(channels: list[Listening], size: int) -> Iterator[list[Listening]]:
    for start in range(0, len(channels), size):
        yield channels[start : start + size]


async def turn_of_others() -> float:
    """Let all else that waits happen; how long it took."""
    began_s = perf_counter()
    await asyncio.sleep(0)
    return perf_counter() - began_s


def end(channel: Channel) -> None:
    for viewer in [*channel.viewers]:
        viewer.end()
