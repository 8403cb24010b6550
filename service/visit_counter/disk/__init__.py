"""What the service keeps in files of its data directory.

Here: the spool and its format, the producer's epoch, locks, the copy that a migration makes. Not
here: when something is spooled or replayed (`delivery/`), and Valkey's own files (`embedded/`).
"""
