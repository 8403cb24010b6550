-- wrk's part of the closed loop: hits of distinct visitors through a warm-up and a window, then
-- looks, which count nothing. wrk breaks off what is unanswered at its end; with this that is
-- never a hit, so that the counts must equal the hits that were sent.
--
-- Arguments: what `as_lua` wrote, what to send ("hits", "looks"), seconds of warm-up and window,
-- and files of which the first line is told at both ends of the window.

local bit = require 'bit'
local ffi = require 'ffi'

ffi.cdef [[
  typedef struct { long s; long ns; } instant_t;
  int clock_gettime(int clock, instant_t *instant);
]]

local MONOTONIC = 1
local instant = ffi.new('instant_t')
local threads = {}
local given, sent, warm_up_s, window_s, files
local octets, digits = {}, {}
local LOOK_AT_CLOCK = 8 -- so many requests from one look to the next
local unlooked = LOOK_AT_CLOCK

-- Of the thread, for `done`, which sees none of its locals.
told = ''

local started, ends = false, nil
local begun = false
local visitors, requests, hits, hits_at_begin, begin = 0, 0, 0, 0, nil

local function now_s()
  ffi.C.clock_gettime(MONOTONIC, instant)
  return tonumber(instant.s) + tonumber(instant.ns) / 1e9
end

local function tell(name, value)
  told = told .. name .. '\t' .. value .. '\n'
end

local function tell_files(when)
  for _, path in ipairs(files) do
    local file = assert(io.open(path))
    tell(when .. ' ' .. path, file:read('*l'))
    file:close()
  end
end

-- With the address of another visitor and the id of another view, in one concatenation: each text
-- that is made is kept by Lua, and costs a search.
local function fill(kind, number)
  local parts = kind[number % #kind + 1]
  visitors = visitors + 1
  local a = bit.band(bit.rshift(visitors, 16), 255)
  local b = bit.band(bit.rshift(visitors, 8), 255)
  local c = bit.band(visitors, 255)
  if not parts[3] then -- a look has no id
    return parts[1] .. '10.' .. octets[a] .. '.' .. octets[b] .. '.' .. octets[c] .. parts[2]
  end
  return parts[1] .. '10.' .. octets[a] .. '.' .. octets[b] .. '.' .. octets[c] .. parts[2]
    .. '3f9a2c7' .. digits[a] .. digits[b] .. digits[c] .. parts[3]
end

local function next_request()
  requests = requests + 1
  if given.every > 0 and requests % given.every == 0 then
    return fill(given.others, requests / given.every)
  end
  hits = hits + 1
  return fill(sent, hits)
end

local function begin_window(now)
  begun, begin, ends, hits_at_begin = true, now, now + window_s, requests
  tell_files('begin')
end

local function end_window(now)
  tell_files('end')
  tell('seconds', now - begin)
  tell('requests', requests - hits_at_begin)
  tell('hits', hits)
  ends = nil
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  given, warm_up_s, window_s, files = dofile(args[1]), tonumber(args[3]), tonumber(args[4]), {}
  sent = given[args[2]]
  for n = 5, #args do
    files[#files + 1] = args[n]
  end
  for n = 0, 255 do
    octets[n], digits[n] = tostring(n), ('%03d'):format(n)
  end
end

local function look_at_clock()
  local now = now_s()
  if not begun and now >= begin then
    begin_window(now)
  elseif ends and now >= ends then
    end_window(now)
  end
end

function request()
  if not started then
    started, begin = true, now_s() + warm_up_s
    return fill(given.looks, 0) -- wrk only looks at the first one, and never sends it
  end
  unlooked = unlooked - 1
  if unlooked == 0 then
    unlooked = LOOK_AT_CLOCK
    look_at_clock()
  end
  if begun and not ends then
    return fill(given.looks, 0)
  end
  return next_request()
end

function done(summary)
  io.write(threads[1]:get('told'))
  for kind, number in pairs(summary.errors) do
    io.write('errors ', kind, '\t', number, '\n')
  end
end
