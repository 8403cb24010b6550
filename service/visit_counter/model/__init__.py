"""What the service talks about: sites, hits, counts, periods, and the forms in which they are kept.

Values only: nothing here reads a clock, a socket, a file or the environment.
"""
