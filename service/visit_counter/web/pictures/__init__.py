"""Pictures of a site's counts, for pages and places where no script runs.

The same numbers as `GET /w/{site}`, by the same reader. `serving` answers, `oembed` and `frame` are
other ways to embed, `query` reads what is asked for; `drawn/` has what draws. To look at a picture
counts nothing.
"""
