"""A process and the system around it, whether it is single, a worker or a parent of workers.

Here: its sockets (`listeners`, `passed_sockets`), how many connections its file limit allows
(`open_files`), what a service manager is told (`systemd`), what it does first (`startup`)
and last (`shutdown`). Not here: what it counts and answers (`app.py`, `serving.py`), and what a
parent has to do with its workers (`workers/`); the log, deadlines and clocks are below all.
"""
