-- The function library runs inside Valkey's and Redis's own Lua 5.1. Its files are checked as one, as
-- they are loaded: .ci/luacheck.py.
std = "lua51"
read_globals = { "redis", "server", "cjson", "cmsgpack", "bit", "struct" }
max_line_length = 100

-- wrk's scripts run inside wrk's LuaJIT, and define the functions that it calls.
files["loadtests/**/*.lua"] = {
  std = "luajit",
  globals = { "setup", "init", "request", "done", "told" },
}
