"""Whether the store holds exactly what a generator's hits must have left there.

Read past the service, from the keys that counting.lua writes; and the service must have answered
all of them as counted. Else a figure is void.
"""

from __future__ import annotations

import re
from urllib.request import urlopen

from redis import Redis

from loadtests.bench.closed_loop import Void
from loadtests.bench.servers import Server
from loadtests.oracle import NAMESPACE, running_sums

OUTCOME = re.compile(r'^visitcounter_hits_total\{outcome="(\w+)"\} (\S+)$', re.M)


def verify(server: Server, acknowledged: int, before: int = 0) -> None:
    """Raises Void unless these and no other hits count in the store, besides those of `before`;
    nothing is to be counted at other servers."""
    if server.service is None:
        return
    outcomes = outcomes_of(server.service.url)
    if outcomes != ({"counted": acknowledged} if acknowledged else {}):
        raise Void(f"{acknowledged} hits were acknowledged, and the service says {outcomes}")
    counted = pageviews(server.socket_path) - before
    if counted != acknowledged:
        raise Void(f"{acknowledged} hits were acknowledged, and {counted} are counted")


def outcomes_of(url: str) -> dict[str, int]:
    """The service's hits by outcome, those that occurred."""
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        found = OUTCOME.findall(answer.read().decode())
    return {outcome: int(float(number)) for outcome, number in found if float(number)}


def pageviews(socket_path: str) -> int:
    """Of all sites, in total."""
    with Redis(unix_socket_path=socket_path) as store:
        pipeline = store.pipeline(transaction=False)
        for key in store.scan_iter(f"{NAMESPACE}:*:running", count=10_000):
            _ = pipeline.get(key)
        return sum(running_sums(running)["total"]["p"] for running in pipeline.execute())
