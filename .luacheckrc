-- counter.lua runs inside Valkey's and Redis's own Lua 5.1.
std = "lua51"
read_globals = { "redis", "server", "cjson", "cmsgpack", "bit", "struct" }
max_line_length = 100
