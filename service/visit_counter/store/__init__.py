"""The store: the only package that speaks Redis.

Here: the one class that the others call (`store`), batches as they travel (`batch`), calls and the
servers behind them (`functions`, `libraries`, `servers/`, `writer`, `replies`), what makes a store
unsafe or away (`checks`, `health`), which errors of a start are final (`starting/`), and the forms
of its data over versions (`schema`, `migration`, `versions`). `lua/` is the function library and
the data model: it names every key. Not here: what waits for the store (`delivery/`), and the Valkey
that we start (`embedded/`).
"""
