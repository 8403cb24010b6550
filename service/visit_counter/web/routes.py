"""The whole URL table: what pages use, and what operators and admins use."""

from __future__ import annotations

from aiohttp import web

from visit_counter.web import live, ops, site
from visit_counter.web.api import numbers, sites, upgrade
from visit_counter.web.pages import checker, generator
from visit_counter.web.pages import files as widget
from visit_counter.web.pictures import oembed, serving


def page_routes(base: str) -> list[web.RouteDef]:
    """For pages and their visitors."""
    return [
        web.post(f"{base}/w/{{site}}", site.post_hit),
        web.get(f"{base}/w/{{site}}", site.get_counts),
        web.get(f"{base}/w/{{site}}/live", live.get_live),
        web.get(f"{base}/w/{{site}}/dot.gif", site.dot_gif),
        web.get(f"{base}/w/{{site}}/block.svg", serving.block),
        web.get(f"{base}/w/{{site}}/badge.svg", serving.badge),
        web.get(f"{base}/w/{{site}}/digits.svg", serving.digits),
        web.get(f"{base}/w/{{site}}/spark.svg", serving.spark),
        web.get(f"{base}/w/{{site}}/button.svg", serving.button),
        web.get(f"{base}/w/{{site}}/frame", serving.frame),
        web.get(f"{base}/w/{{site}}/shields.json", serving.shields),
        web.get(f"{base}/w/{{site}}/how.json", serving.how),
        web.get(f"{base}/w/{{site}}/privacy", serving.privacy),
        web.get(f"{base}/w/{{site}}/check", checker.check),
        web.get(f"{base}/oembed", oembed.oembed),
        web.get(f"{base}/embed.js", widget.embed_js),
        web.get(f"{base}/embed.count.js", widget.count_js),
        web.get(f"{base}/embed.{{version:[0-9a-f]{{16}}}}.js", widget.pinned_js),
        web.get(f"{base}/embed.count.{{version:[0-9a-f]{{16}}}}.js", widget.pinned_js),
        web.get(f"{base}/embed", generator.page),
        web.get(f"{base}/preview", generator.preview),
        web.get(f"{base}/generator.css", widget.generator_css),
        web.get(f"{base}/generator.js", widget.generator_js),
        web.get(f"{base}/generator.codes.js", widget.generator_codes_js),
        web.get(f"{base}/generator.preview.js", widget.generator_preview_js),
        web.get(f"{base}/generator.check.js", widget.generator_check_js),
        web.get(f"{base}/demo", widget.demo),
        web.get(f"{base}/demo.css", widget.demo_css),
        web.get(f"{base}/demo.js", widget.demo_js),
        web.get(f"{base}/demo.svg", widget.demo_icon),
        web.get(f"{base}/", widget.home),
        web.get(f"{base}/healthz", ops.healthz),
        web.get(f"{base}/readyz", ops.public_readyz),
    ]


def ops_routes(base: str) -> list[web.RouteDef]:
    """For admins and for Prometheus; on an address of their own if one is set."""
    of_site = f"{base}/api/v1/sites/{{site}}"
    return [
        web.get(f"{base}/api/v1/sites", sites.list_sites),
        web.post(f"{base}/api/v1/sites", sites.create_site),
        web.get(of_site, sites.show_site),
        web.put(of_site, sites.replace_site),
        web.patch(of_site, sites.change_site),
        web.post(f"{of_site}/reset", numbers.reset_site),
        web.post(f"{of_site}/undo/{{operation}}", numbers.undo_reset),
        web.post(f"{of_site}/seed", numbers.seed_site),
        web.get(f"{of_site}/drops", numbers.show_drops),
        web.get(f"{base}/api/v1/upgrade", upgrade.show_upgrade),
        web.post(f"{base}/api/v1/upgrade/finish", upgrade.finish_upgrade),
        web.get(f"{base}/metrics", ops.metrics),
    ]


def health_routes(base: str) -> list[web.RouteDef]:
    """What an ops address of its own answers as well."""
    return [
        web.get(f"{base}/healthz", ops.healthz),
        web.get(f"{base}/readyz", ops.readyz),
    ]
