"""The fast lane: connections on which hits and looks are answered without aiohttp's request path.

Here: bytes in, bytes out. What a hit is and what becomes of it is decided in `web/hits/`, for both
paths alike.
"""
