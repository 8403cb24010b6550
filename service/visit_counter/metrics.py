"""The Prometheus series of this process: names here are a contract with those who scrape.

No series carries a site, a path or an address: their number would be the visitors' to choose.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]


MOST_NOTED = 1000


class Noted:
    """One series of a NotedHistogram. Amounts are only noted, and sorted into their buckets many at
    once, at the latest when somebody scrapes: prometheus-client's Histogram takes several locks for
    each."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._noted: list[float] = []
        self._counts = [0] * (len(bounds) + 1)
        """Amounts at most as large as a bound and larger than the one before; the last is the rest.
        """
        self._sum = 0.0

    def note(self, amount: float) -> None:
        self.note_all((amount,))

    def note_all(self, amounts: Sequence[float]) -> None:
        self._noted += amounts
        if len(self._noted) >= MOST_NOTED:
            self._sort_in()

    def sample(self) -> tuple[list[tuple[str, float]], float]:
        """Each bucket's bound with the number of amounts up to it; the sum of all amounts."""
        self._sort_in()
        buckets, upto = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            upto += count
            buckets.append((_written(bound), float(upto)))
        return buckets, self._sum

    def _sort_in(self) -> None:
        ordered, below = sorted(self._noted), 0
        self._noted.clear()
        self._sum += sum(ordered)
        for index, bound in enumerate(self._bounds):
            upto = bisect_right(ordered, bound)
            self._counts[index] += upto - below
            below = upto
        self._counts[-1] += len(ordered) - below


class NotedHistogram(Collector):
    """A histogram for what happens often, by labels, as prometheus-client's custom collectors are
    written. A subclass of its Histogram would need four private attributes."""

    def __init__(
        self, name: str, doc: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> None:
        self._name = name
        self._doc = doc
        self._labels = labels
        self._buckets = buckets
        self._series: dict[tuple[str, ...], Noted] = {}
        REGISTRY.register(self)

    def labels(self, *values: str) -> Noted:
        """The series with these values, one for each label."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}, not {values}")
            series = self._series[values] = Noted(self._buckets)
        return series

    def describe(self) -> Iterable[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._doc, labels=self._labels)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._doc, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, *series.sample())
        yield family


def _written(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(float(bound))


class Part:
    """One of several that together are what a gauge shows."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0.0

    def set(self, value: float) -> None:
        self._gauge.inc(value - self._value)
        self._value = value


HITS = Counter(
    "visitcounter_hits",
    "Hits by what became of them: counted, held (only the pageview counts), spooled (counted when "
    "the store is back), dropped, refused (answered 503: neither was confirmed).",
    ["outcome"],
)
REPEATED = Counter(
    "visitcounter_repeated_views",
    "Views that came again under the same id; those that were accepted before are not counted.",
)
DROPS = Counter(
    "visitcounter_hits_dropped",
    "Hits that were not counted, by reason; unknown_site hits belong to no site.",
    ["reason"],
)
BATCH_HITS = NotedHistogram(
    "visitcounter_batch_hits",
    "Hits and drops in one batch.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
).labels()
FLUSH_SECONDS = NotedHistogram(
    "visitcounter_flush_seconds",
    "Time from sending batches to the store until all are answered.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
).labels()
PENDING = Gauge("visitcounter_pending_hits", "Hits that wait for a batch.")
REQUEST_SECONDS = NotedHistogram(
    "visitcounter_request_seconds",
    "Time to answer a request, by route template, method and status class.",
    ["route", "method", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
LANE_REQUESTS = Counter(
    "visitcounter_lane_requests",
    "Requests that the fast lane answered itself, or handed over to aiohttp with the connection.",
    ["outcome"],
)
CONNECTIONS = Gauge("visitcounter_connections", "Open connections of clients.")
CONNECTIONS_REFUSED = Counter(
    "visitcounter_connections_refused",
    "Connections ended or not taken since there were too many, by limit: all, of one client "
    "network, or for the memory that their requests take.",
    ["limit"],
)
LIVE_STREAMS = Gauge("visitcounter_live_streams", "Viewers of live counts.")
LIVE_REFUSED = Counter(
    "visitcounter_live_refused",
    "Viewers of live counts answered 503, by limit: all, network (viewers of one), pages (that are "
    "watched, all different), network_pages (that one has asked for).",
    ["limit"],
)
LIVE_PAGES = Gauge("visitcounter_live_pages", "Different pages that viewers of live counts watch.")
LIVE_SKIPPED = Counter(
    "visitcounter_live_skipped_messages",
    "Counts that a live viewer who read too slowly was not sent, since newer ones had come.",
)
LIVE_TICK_SECONDS = Histogram(
    "visitcounter_live_tick_seconds",
    "Time to look at all counts that somebody watches, once a second, and to tell all viewers.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5),
)
STORE_UP = Gauge("visitcounter_store_up", "1 while the store answers.")
STORE_CHECK = Gauge("visitcounter_store_check", "1 where the store is well, by check.", ["check"])
CLOCK_SKEW = Gauge(
    "visitcounter_clock_skew_seconds", "How far the store's clock is ahead of this machine's."
)
VISITORS_FULL = Counter(
    "visitcounter_visitors_full_hits", "Hits held because a site's set of visitors is full."
)
FORWARDED_IGNORED = Counter(
    "visitcounter_forwarded_ignored",
    "Requests whose X-Forwarded-For came from a peer that is not a trusted proxy.",
)
FORWARDED_BEYOND = Counter(
    "visitcounter_forwarded_beyond",
    "Requests whose client is not a trusted proxy and names others beyond it in X-Forwarded-For: "
    "it made them up, or it is a proxy that is not listed.",
)
LOST_BATCHES = Counter(
    "visitcounter_lost_batches", "Answered batches that the store lost and nobody holds any more."
)
REPLAYED_BATCHES = Counter(
    "visitcounter_replayed_batches", "Answered batches that the store had lost and got again."
)
RETAINED_BYTES = Gauge(
    "visitcounter_retained_bytes", "Answered batches kept in case the store loses them."
)
REJECTED_BATCHES = Counter(
    "visitcounter_rejected_batches", "Batches that the store refuses for good; they are kept aside."
)
STUCK_PARTITIONS = Gauge(
    "visitcounter_stuck_partitions",
    "Partitions whose batches in the spool the store does not take while it takes others.",
)
SPOOL_RECORDS = Gauge("visitcounter_spool_batches", "Batches in the spool, for the store to take.")
SPOOL_BYTES = Gauge("visitcounter_spool_bytes", "What the spool takes on disk.")
WRONG_TOKENS = Counter(
    "visitcounter_wrong_tokens", "Requests with an admin token that is not ours."
)
MIGRATION_PARTITIONS = Gauge(
    "visitcounter_migration_partitions",
    "Partitions of the store whose data is still to be migrated to a newer form; 0 when all is.",
)
LOG_LINES_LOST = Counter(
    "visitcounter_log_lines_lost",
    "Lines of the log that could not be written, as with a full disk or a reader that sleeps.",
)
WORKERS = Gauge("visitcounter_workers", "Workers that are up; 1 where one process is all.")
SITES = Gauge("visitcounter_sites", "Sites that this process knows.")
UNREADABLE_SITES = Gauge(
    "visitcounter_unreadable_sites",
    "Sites whose settings in the store cannot be read: their hits are refused.",
)
BUILD_INFO = Gauge("visitcounter_build_info", "1, with the version.", ["version", "python"])
