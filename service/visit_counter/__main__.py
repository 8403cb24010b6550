"""`python -m visit_counter` is the command `visit-counter`."""

from visit_counter.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
