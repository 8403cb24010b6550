"""What is known of sites and their numbers, for those who look.

Here: the sites as the store has them, counts that are at most a second old, and the hub that tells
live viewers. Not here: HTTP (`web/`), and the calls of the store (`store/`).
"""
