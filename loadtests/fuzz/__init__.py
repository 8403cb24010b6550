"""Fuzzing: what no page, admin or browser would send, and whether the service bears it.

`values` has the odd values, `requests` makes requests of them, `exchange` sends one and reads what
comes back, `judge` says what is wrong with an answer and with the service behind it, `__main__` is
the command. Every case is made from a seed and its number alone, so that a finding names the case
that repeats it. Everything stays on loopback and ends by itself.
"""
