-- Pages: how often each path was viewed, and which paths have a place of their own. In this order:
--
--   places      how a path earns one, and which page gives its place up
--   candidates  paths that wait for a place: kept, looked through, merged
--   views       counted, and shown
--
-- A place is for ever, and there are max_pages. So that nobody fills them with paths that do not
-- exist, a new path waits among the candidates until visitors of three networks have viewed it, or
-- somebody from a network that the site trusts. While it waits its views are in `(other)`; it takes
-- them along when it gets its place, and is shown with them before. All pages and `(other)` are
-- therefore all pageviews at any time, and a candidate that goes changes no sum.

-- For hits and counts, in counting.lua, and for the undo of a reset, in sites.lua.
local add_pages, views_of, merge_candidates

do

local OTHER = '(other)'
local NOTE = '#' -- of the hashes here: no path is called so
local MINUTE_MS = 60000
local DAY_MINUTES = 1440
local WAIT_MINUTES = 90 * DAY_MINUTES -- a candidate goes that had no view for so long
local IDLE_MINUTES = 30 * DAY_MINUTES -- a page may be replaced that had none
local NOTES_MS = WAIT_MINUTES * MINUTE_MS + DAY_MS
local MANY_PATHS = 32 -- in one batch
local MIN_WAITING, MAX_WAITING = 1000, 10000 -- candidates of a site
local LOOKED_AT = 64 -- pages, for one that may be replaced
local AT_ONCE = 1000 -- members in one command
local CODES = 65536 -- of networks; as hexadecimal digits:
local CODE_FORMAT, CODE_LENGTH = '%04x', 4
local NEEDED = 3 -- networks
local EARNED = '*' -- in the place of their codes
local INDEXES = 65536 -- more than there are entries in a hash of candidates

local function minute_of(part, now)
  return math.floor(min(max(part.state[LAST], part.newest), now) / MINUTE_MS)
end

local function add_other(pages, views)
  if views ~= 0 and tonumber(call('ZINCRBY', pages, views, OTHER)) == 0 then
    call('ZREM', pages, OTHER)
  end
end

--------------------------------------------------------------------------------------------- places

-- The networks that have viewed a path, with those of a part: see `_Part` in batch.py. A part of an
-- older form does not tell them, and its paths earn their places at once, as they did there.
local function with_networks(networks, sent)
  if networks == EARNED or not sent or sent < 0 then
    return EARNED
  end
  while sent > 0 do
    local code = string.format(CODE_FORMAT, sent % CODES)
    sent = math.floor(sent / CODES)
    if code ~= sub(networks, 1, CODE_LENGTH) and code ~= sub(networks, CODE_LENGTH + 1) then
      networks = networks .. code
    end
  end
  return #networks < NEEDED * CODE_LENGTH and networks or EARNED
end

local function free_places(part, pages)
  local others = call('ZSCORE', pages, OTHER) and 1 or 0
  return part.max_pages - call('ZCARD', pages) + others
end

-- Frees the place of the least viewed page that had no view for 30 days; returns whether there was
-- one. When a page was viewed is not known, but which pages have as many views as at an earlier
-- look: each look is at a few of them, from the least viewed on, and begins there again every day.
-- One that found none is the only one in its minute.
local function replace_idle(base, minute)
  local key, pages = base .. 'idle', base .. 'pages'
  local last, rank = string.match(call('HGET', key, NOTE) or '0:0', '^(%d+):(%d+)$')
  if tonumber(last) == minute then
    return false
  elseif math.floor(last / DAY_MINUTES) ~= math.floor(minute / DAY_MINUTES) then
    rank = 0
  end
  local found = call('ZRANGE', pages, rank, rank + LOOKED_AT - 1, 'WITHSCORES')
  local names, at_end = {NOTE}, #found < 2 * LOOKED_AT
  for i = 1, #found, 2 do
    names[#names + 1] = found[i]
  end
  local before = call('HMGET', key, unpack_list(names))
  local notes = {NOTE, minute .. ':' .. (at_end and 0 or rank + LOOKED_AT)}
  for n = 2, #names do
    local page, views = names[n], found[2 * n - 2]
    local known, since = string.match(before[n] or '', '^(%d+):(%d+)$')
    since = known == views and tonumber(since) <= minute and tonumber(since)
    if page ~= OTHER and not since then
      notes[#notes + 1] = page
      notes[#notes + 1] = views .. ':' .. minute
    elseif page ~= OTHER and since <= minute - IDLE_MINUTES then
      call('ZREM', pages, page)
      call('HDEL', key, page)
      add_other(pages, views)
      return true
    end
  end
  call('HSET', key, unpack_list(notes))
  call('PEXPIRE', key, NOTES_MS)
  return false
end

----------------------------------------------------------------------------------------- candidates

local function packed_candidate(views, minute, networks)
  return whole(views) .. ':' .. minute .. ':' .. networks
end

-- Views of a candidate, the minute of the last, and the networks; of a path that is none zeros.
local function candidate(packed)
  local views, minute, networks = string.match(packed or '0:0:', '^(%d+):(%d+):(.*)$')
  return tonumber(views), tonumber(minute), networks
end

-- Of too many candidates those go of which their networks have most, the ones viewed longest ago
-- first: paths that the same networks have viewed compete with each other, so that one network
-- pushes out its own only. `order`: last minute and number of each; `networks` and `paths` of each
-- by its number. Adds to `gone`.
local function thin_out(order, networks, paths, room, gone)
  local ranks, held, of_rank, level = {}, {}, {}, 0
  table.sort(order)
  for n = #order, 1, -1 do
    local whose = networks[order[n] % INDEXES]
    local rank = (held[whose] or 0) + 1
    held[whose], ranks[n], of_rank[rank] = rank, rank, (of_rank[rank] or 0) + 1
  end
  while (of_rank[level + 1] or room + 1) <= room do
    level = level + 1
    room = room - of_rank[level]
  end
  for n = #order, 1, -1 do
    if ranks[n] == level + 1 and room > 0 then
      room = room - 1
    elseif ranks[n] > level then
      gone[#gone + 1] = paths[order[n] % INDEXES]
    end
  end
end

-- Looks through all candidates: those go that nobody views any more, and if there are more than
-- `most` a quarter beyond it too.
local function sift(key, minute, most)
  local flat, order, networks, paths, gone = call('HGETALL', key), {}, {}, {}, {}
  for i = 1, #flat, 2 do
    local _, last, whose = candidate(flat[i] ~= NOTE and flat[i + 1])
    last = min(last, minute)
    if flat[i] ~= NOTE and last < minute - WAIT_MINUTES then
      gone[#gone + 1] = flat[i]
    elseif flat[i] ~= NOTE then
      order[#order + 1] = last * INDEXES + i
      networks[i], paths[i] = whose, flat[i]
    end
  end
  if #order > most then
    thin_out(order, networks, paths, math.floor(most * 3 / 4), gone)
  end
  for first = 1, #gone, AT_ONCE do
    call('HDEL', key, unpack_list(gone, first, min(first + AT_ONCE - 1, #gone)))
  end
end

-- Writes candidates. All of them are looked through once a day, which gives them another life, and
-- when there are too many: as many as there are free places, within bounds.
local function keep_candidates(part, kept, minute, looked_through)
  local key, today = part.base .. 'candidates', math.floor(minute / DAY_MINUTES)
  local is_new_day = tonumber(looked_through) ~= today
  if is_new_day then
    kept[#kept + 1] = NOTE
    kept[#kept + 1] = today
  end
  local added = call('HSET', key, unpack_list(kept))
  if is_new_day then
    call('PEXPIRE', key, NOTES_MS)
  end
  if added > 0 or is_new_day then
    local free = part.max_pages - call('ZCARD', part.base .. 'pages')
    local most = max(MIN_WAITING, min(MAX_WAITING, free))
    if is_new_day or call('HLEN', key) > most + 1 then
      sift(key, minute, most)
    end
  end
end

-- Counts views of paths that have no place: `new` has their numbers in the part. A site without
-- places keeps no paths, and so no candidates.
local function add_new_pages(part, new, now)
  local base, pages, minute = part.base, part.base .. 'pages', minute_of(part, now)
  local names, placed, left, kept, others, places = {}, {}, {}, {}, 0, nil
  for n, i in ipairs(new) do
    names[n], others = part.paths[i], others + part.views[i]
  end
  if part.max_pages == 0 then
    return add_other(pages, others)
  end
  names[#names + 1] = NOTE
  local waiting = call('HMGET', base .. 'candidates', unpack_list(names))
  for n, i in ipairs(new) do
    local views, _, networks = candidate(waiting[n])
    views = views + part.views[i]
    networks = with_networks(networks, part.networks and part.networks[i])
    places = places or networks == EARNED and free_places(part, pages)
    if networks == EARNED and (places > 0 or replace_idle(base, minute)) then
      places = max(0, places - 1)
      placed[#placed + 1] = views
      placed[#placed + 1] = names[n]
      left[#left + 1] = waiting[n] and names[n] or nil
      others = others - views
    else
      kept[#kept + 1] = names[n]
      kept[#kept + 1] = packed_candidate(views, minute, networks)
    end
  end
  if #placed > 0 then
    call('ZADD', pages, unpack_list(placed))
  end
  if #left > 0 then
    call('HDEL', base .. 'candidates', unpack_list(left))
  end
  add_other(pages, others)
  if #kept > 0 then
    keep_candidates(part, kept, minute, waiting[#names])
  end
end

-- Two candidates of the same path, of two generations.
local function joined(one, other)
  local views, minute, networks = candidate(one)
  local more_views, later, more_networks = candidate(other)
  local sent = more_networks == EARNED and -1 or 0
  for code in string.gmatch(more_networks, '%x%x%x%x') do
    sent = sent * CODES + tonumber(code, 16)
  end
  return packed_candidate(views + more_views, max(minute, later), with_networks(networks, sent))
end

-- Adds a generation's candidates to those of another, to whose pages its pages were added before: a
-- path that waited in one of them may have its place since the other.
function merge_candidates(from, into)
  local key, pages, names, others = into .. 'candidates', into .. 'pages', {}, 0
  local merged = read_hash(key)
  for path, packed in pairs(read_hash(from .. 'candidates')) do
    merged[path] = merged[path] and path ~= NOTE and joined(merged[path], packed) or packed
  end
  merged[NOTE] = nil
  for path in pairs(merged) do
    names[#names + 1] = path
  end
  for first = 1, #names, AT_ONCE do
    local some = {unpack_list(names, first, min(first + AT_ONCE - 1, #names))}
    local known, kept = call('ZMSCORE', pages, unpack_list(some)), {}
    for n, path in ipairs(some) do
      if known[n] then
        local views = candidate(merged[path])
        call('ZINCRBY', pages, views, path)
        call('HDEL', key, path)
        others = others - views
      else
        kept[#kept + 1] = path
        kept[#kept + 1] = merged[path]
      end
    end
    if #kept > 0 then
      call('HSET', key, unpack_list(kept))
    end
  end
  add_other(pages, others)
  call('HDEL', key, NOTE) -- the next one has them looked through
  call('PEXPIRE', key, NOTES_MS)
end

---------------------------------------------------------------------------------------------- views

-- A sorted set of at most 128 short members has no index: each is looked for from end to end. A
-- long one makes it a set with an index, and it remains one.
local function index_pages(pages)
  local long = string.rep('x', 65)
  call('ZADD', pages, 0, long)
  call('ZREM', pages, long)
end

-- Counts the views of a part's paths.
function add_pages(part, now)
  local pages, paths, views = part.base .. 'pages', part.paths, part.views
  if #paths == 1 then
    return call('ZADD', pages, 'XX', 'INCR', views[1], paths[1]) or add_new_pages(part, {1}, now)
  elseif #paths > MANY_PATHS and call('ZCARD', pages) <= 128 then
    index_pages(pages)
  end
  local known, sums, new, n = call('ZMSCORE', pages, unpack_list(paths)), {}, {}, 0
  for i = 1, #paths do
    if known[i] then
      sums[n + 1], sums[n + 2], n = known[i] + views[i], paths[i], n + 2
    else
      new[#new + 1] = i
    end
  end
  if n > 0 then
    call('ZADD', pages, unpack_list(sums))
  end
  if #new > 0 then
    add_new_pages(part, new, now)
  end
end

-- The views of a path, also of one that waits for a place.
function views_of(base, path)
  return call('ZSCORE', base .. 'pages', path)
    or candidate(call('HGET', base .. 'candidates', path) or nil)
end

end
