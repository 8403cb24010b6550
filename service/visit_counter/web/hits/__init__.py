"""A request becomes a hit: `intake` asks the rules in turn, and `answers` says what became of it.

Here: headers, the body of a beacon, dot.gif. Not here: the rules themselves (`rules/`), and the
connection that a hit came on (`web/lane/`).
"""
