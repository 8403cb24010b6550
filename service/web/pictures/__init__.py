"""Pictures of a site's counts, for pages and places where no script runs.

The same numbers as `GET /w/{site}`, by the same reader: a block with rows, a badge, digits, thirty
days of bars, an 88×31 button, the block as a page for a frame, and the badge as shields.io wants
it. `serving` answers, `panel` knows what is to be shown, and each picture has a module that draws
it and knows neither requests nor the store. To look at a picture counts nothing.
"""
