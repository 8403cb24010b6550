"""Private and undocumented parts of libraries that the service uses, a module for each library.

Each part is named here with the reason why no public way exists and the version in which it was
last looked at; `tests/test_private_parts.py` says which one a new version has changed, and
pyproject.toml holds a library below the version that nobody has looked at. Not here: the documented
parts, which are imported where they are used.
"""
