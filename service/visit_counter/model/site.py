"""A site as the hit path uses it: a plain class, whose fields cost nothing to read where it is
compiled."""

from __future__ import annotations

from visit_counter.model.paths import PathRules
from visit_counter.model.site_settings import SiteSettings, StoredSite, partition_of
from visit_counter.model.stored_site import NOTHING, Unknown
from visit_counter.rules.addresses import Networks
from visit_counter.rules.origins import Origins


def path_rules(settings: SiteSettings) -> PathRules | None:
    """None where a path is counted as it is cleaned for every site."""
    is_directory = settings.path_style == "directory"
    if not is_directory and not settings.query_keys:
        return None
    return PathRules(directory=is_directory, keys=settings.query_keys)


class Site:
    """A site as the hit path uses it: parsed once, replaced whole when a setting changes."""

    def __init__(
        self,
        stored: StoredSite,
        generation: int,
        raw: bytes = b"",
        unknown: Unknown = NOTHING,
    ) -> None:
        self.raw = raw  # as the store has it: a change is made to exactly this
        self.unknown = unknown  # fields of `raw` that a change writes back
        self.settings = stored.settings
        self.calendar = stored.calendar
        self.generation = generation
        self.id = stored.settings.id
        self.partition = partition_of(self.id)
        self.origins = Origins.parse(self.settings.origins)
        self.trusted = Networks.parse(self.settings.trusted_networks)
        self.ignored = Networks.parse(self.settings.ignored_networks)
        self.paths = path_rules(self.settings)
        self.ignores = bool(self.settings.ignored_networks)
