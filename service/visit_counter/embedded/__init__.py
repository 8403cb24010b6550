"""The Valkey that the service starts itself, where no other store is set.

Here: its process, its configuration and its directory. Not here: what is asked of it, which is the
same as of any other store (`store/`).
"""
