"""The service under test: in this process, as processes, and earlier and later releases of it."""
