"""The Visit Counter: takes page hits, counts them in Valkey or Redis, shows the numbers.

The packages in the order of their imports, from the top; each says what belongs in it:

    cli app serving          commands; composition; addresses and web applications
    web                      HTTP: what pages, operators and admins ask
    workers                  several processes
    reading | delivery       sites and numbers for those who look | hits on their way to the store
    store embedded           the only speaker of Redis, with its Lua | the Valkey that we start
    config disk              settings | what is kept in files
    model rules              what we talk about | who counts: both pure
    clock logs tasks metrics errors
    adapters                 private parts of libraries, a module for each

A hit: web.lane -> web.hits -> delivery -> store -> counting.lua, and its answer back. A look:
web.site -> reading -> store -> counting.lua. An admin: web.api -> reading.sites or store.
`CONTRIBUTING.md` says where to change what.
"""
