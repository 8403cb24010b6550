"""The command line: one module for each group of commands.

Here: what parses arguments, calls one thing and prints. Not here: what a command does; the service
itself is put together in `app.py`, and sites are changed by the admin API of the running service.
"""
