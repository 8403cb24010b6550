"""The hub: once a second it looks at the counts that somebody watches, and tells those who watch.

All who watch the same counts are told by the same bytes, made once. Nobody is waited for: who does
not read keeps one message to be sent, the newest (`Mailbox`), for counts are a state and not a log.
While the store is away the last counts stay, marked as stale.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple, Protocol, Self

from visit_counter import logs, metrics
from visit_counter.clock import Clock
from visit_counter.errors import StoreError
from visit_counter.model.site import Site
from visit_counter.reading.reader import Asked, Reader, Reading
from visit_counter.reading.sites import Sites
from visit_counter.tasks import supervised

TICK_S = 1.0
FRESH_MS = 500  # less than a tick, so that each tick sees what came since the last
BEAT_S = 20.0  # without news a sign of life: proxies end what is silent, and a dead peer is noticed
STALE_MS = 5000
AT_ONCE = 100  # counts that are read
MOST_AT_ONE = 200  # viewers, network
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

    network: str
    """Where they are, none where that does not matter."""

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

    __slots__ = ("spoke_s", "tag", "viewers")

    def __init__(self, now_s: float) -> None:
        self.viewers: set[Viewer] = set()
        self.tag = ""
        self.spoke_s = now_s


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
        self._viewers = 0
        self._at = Counter[str]()
        """Viewers by network."""
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

    def takes(self, network: str) -> bool:
        """Whether another viewer may join who is there; each may choose a page to be read."""
        crowded = network and self._at[network] >= MOST_AT_ONE
        return not (self._stopping or crowded or self._viewers >= self._most)

    async def look(self, site: Site, path: str | None) -> Message:
        """What is to be seen now; raises StoreError."""
        return self._message(site, path, await self._reader.read(site, Asked(path)))

    def join(self, watched: Watched, viewer: Viewer) -> None:
        now_s = asyncio.get_running_loop().time()
        self._channels.setdefault(watched, Channel(now_s)).viewers.add(viewer)
        self._count(viewer, +1)

    def leave(self, watched: Watched, viewer: Viewer) -> None:
        channel = self._channels[watched]
        channel.viewers.remove(viewer)
        self._count(viewer, -1)
        if not channel.viewers:
            del self._channels[watched]

    def _count(self, viewer: Viewer, change: int) -> None:
        self._viewers += change
        self._at[viewer.network] += change
        if not self._at[viewer.network]:
            del self._at[viewer.network]
        metrics.LIVE_STREAMS.set(self._viewers)

    async def _run(self) -> None:
        """Ticks take at most half of the time, however many there are to tell."""
        while True:
            began_s = perf_counter()
            await self._tick()
            took_s = perf_counter() - began_s
            metrics.LIVE_TICK_SECONDS.observe(took_s)
            await asyncio.sleep(max(TICK_S - took_s, took_s))

    async def _tick(self) -> None:
        channels = [*self._channels.items()]
        for start in range(0, len(channels), AT_ONCE):
            some = channels[start : start + AT_ONCE]
            await asyncio.gather(*(self._turn(*each) for each in some))

    async def _turn(self, watched: Watched, channel: Channel) -> None:
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


async def turn_of_others() -> float:
    """Let all else that waits happen; how long it took."""
    began_s = perf_counter()
    await asyncio.sleep(0)
    return perf_counter() - began_s


def end(channel: Channel) -> None:
    for viewer in [*channel.viewers]:
        viewer.end()
