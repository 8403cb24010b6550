"""Means of the tests, which has no tests of its own. Here: what all kinds of tests use."""
