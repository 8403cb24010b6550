-- counter.lua runs inside Valkey's and Redis's own Lua 5.1; the last two stand for numbers.
std = "lua51"
read_globals = { "redis", "server", "cjson", "cmsgpack", "bit", "struct", "__writes__", "__newest__" }
max_line_length = 100

-- wrk's scripts run inside wrk's LuaJIT, and define the functions that it calls.
files["loadtests/**/*.lua"] = {
  std = "luajit",
  globals = { "setup", "init", "request", "done", "told" },
}
