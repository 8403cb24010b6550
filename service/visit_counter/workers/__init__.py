"""Several processes: a supervisor, its workers, and what they say to each other.

Here: starting, replacing and ending workers (`supervisor`, `pool`, `process`), a worker's side of
the line (`parent`, `messages`), and the sum of their metrics (`metrics_sum`). Not here: what a
worker does, which is the same as a single process does (`app.py`).
"""
