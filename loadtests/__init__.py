"""Load tests: clients against a real service, whose counts must equal what it acknowledged."""
