"""Who counts: bots, origins, client addresses, limits, and the hash that stands for a visitor.

Each is a pure decision on values that it is given; `web/hits/intake.py` asks them in turn. Nothing
here knows requests or the store.
"""
