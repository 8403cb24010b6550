"""The Visit Counter: takes page hits, counts them in Valkey or Redis, shows the numbers.

A hit: web.routes -> web.collect -> recorder -> ledger -> store -> counter.lua, and its answer back.
A look: web.routes -> web.counts -> reader -> store -> counter.lua.
An admin: web.routes -> web.admin -> sites or store -> counter.lua.

`app` puts the components together; each module imports only what stands below it in
pyproject.toml's list of layers. `counter.lua` is the data model.
"""
