"""A request becomes a hit: `intake` asks the rules in turn, and `answers` says what became of it.

Here: the head and the body of a beacon, what is decided and what is said. Not here: the rules
themselves (`rules/`), the connection that a hit came on (`web/lane/`), and the handlers
(`web/site.py`).
"""
