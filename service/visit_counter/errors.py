"""The exceptions of the service; everything a page does wrong is a `Drop`, not an exception.

    VisitCounterError
    ├── SettingsError        an environment variable is wrong: exit 2
    ├── StartError           the service cannot start here: exit 1
    ├── CallError            a command could not ask the running service: exit 1
    ├── StoreError
    │   ├── StoreUnavailable nothing was written
    │   │   ├── SpoolFull    nor was it kept for later
    │   │   └── UnknownForm  it is for a newer version to read
    │   └── OutcomeUnknown   the store may or may not have written
    │       └── SpoolBroken  or the spool's disk may or may not have kept it
    └── Problem              an answer for the caller of the API (RFC 9457)

Every message is one that its reader can act on: what is wrong, where, what to do.
"""

from __future__ import annotations


class VisitCounterError(Exception):
    """Base of all errors that the service raises on purpose."""


class SettingsError(VisitCounterError):
    """A setting is unknown or has a value that cannot be used."""


class StartError(VisitCounterError):
    """The service cannot start: the sentence says why and what to do."""


class CallError(VisitCounterError):
    """The running service could not be asked, or refused."""


class StoreError(VisitCounterError):
    """The store did not do what it was asked."""


class StoreUnavailable(StoreError):
    """The store did not run the call: nothing was written."""


class OutcomeUnknown(StoreError):
    """The call was sent and no answer came: it may or may not have been written."""


class SpoolFull(StoreUnavailable):
    """The spool has no room for it, or cannot write now: nothing was kept."""


class SpoolUnreadable(StoreUnavailable):
    """The disk does not give back what the spool has on it: it stays there."""


class SpoolGone(SpoolUnreadable):
    """Somebody has removed the spool's file in which it lay: it is lost."""


class UnknownForm(StoreUnavailable):
    """Bytes are in a form that this version does not read: nothing was written, and they stay
    where they are, for a version that does."""

    def __init__(self, form: int | str, where: str) -> None:
        super().__init__(
            f"{where} is in form {form}, which this version does not read: "
            "run the version that wrote it, or a newer one"
        )
        self.form = form


class SpoolBroken(OutcomeUnknown):
    """The spool's disk failed while it was written: what was to be kept may be there or not."""


class Problem(VisitCounterError):
    """What the caller of the API did wrong, as problem+json."""

    def __init__(self, status: int, title: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.field = field
