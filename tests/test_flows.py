"""A hit's whole way over real HTTP: page to store and back."""

from __future__ import annotations

from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server


async def test_a_view_is_counted_and_answered_with_the_counts(service: Service) -> None:
    """One POST counts and reads: online, pageview, visit and visitor, and the page's own count."""
    await service.site()

    answer = await service.hit(p="/a", page=True)

    one = {"pageviews": 1, "visits": 1, "visitors": 1}
    assert answer["counted"] is True
    assert answer["online"] == 1
    assert [answer[name] for name in ("today", "week", "month", "year", "total")] == [one] * 5
    assert answer["page"] == {"path": "/a", "pageviews": 1}


async def test_two_services_on_one_store_count_together(store_server: Server) -> None:
    """Sites, settings and numbers are the store's: a second service has them all."""
    async with (
        run_service(store_server.url, namespace="together") as one,
        run_service(store_server.url, namespace="together") as two,
    ):
        await one.site("shared")
        await two.parts.sites.refresh()

        await one.hit("shared", headers={"Accept-Language": "vi"})
        answer = await two.hit("shared", headers={"Accept-Language": "en"})

    assert answer["total"] == {"pageviews": 2, "visits": 2, "visitors": 2}
