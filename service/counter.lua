#!lua name=__library__

-- The counting function and the data model: every key of the store is named in this file.
--
-- A site lives in one of 64 partitions; KEYS[1] of every call is the partition's tag, such as
-- `vc:{p07}`, and all keys begin with it, so that one call stays on one shard. No key is named like
-- a tag: a slot that is being migrated key by key therefore refuses every call (ASK) before it
-- runs. Instants are milliseconds. A function's writes are one unit in the append-only file and in
-- replication.
--
--   <tag>:sites               hash  site -> settings (JSON); `#` -> version, raised by every change
--   <tag>:generations         hash  site -> current generation; site:n -> "undone"
--   <tag>:operations:<site>   hash  operation id -> kind:generation:instant       30 days
--   <tag>:ledger              hash  producer -> epoch:seq:day of its last batch, and :numbers of
--                                   rejected ones behind the last 256             400 days;
--                                   `#` -> the installation
--
-- What a site counts lives under <tag>:<site>:<generation>: and a reset begins the next generation:
--
--   running                   string what changes with every hit, packed: see STATE
--   seen                      zset  visitor (8 bytes) -> last view or here       expires when quiet
--   left                      zset  those of them who said bye, with the same scores: they are not
--                                   online                                       expires when quiet
--   day:2026-11               hash  22p 22v 22u -> pageviews, visits, frozen visitors of a day that
--                                   has ended; 22a: those visitors are an approximate sum
--   week:2026                 hash  11-16p ...     of the week that begins on that day
--   month:2026, year          hash  11p ..., 2026p ...
--   seeds                     hash  <kind>:<label>:<p|v|u> -> what an admin added
--   visitors:<kind>:<label>   HLL   until 8 days after a newer label froze it
--   visitors:total            HLL   for ever
--   pages                     zset  path -> pageviews, at most max_pages and `(other)`
--   drops:2026-11             hash  22:bot -> hits                                400 days
--   index                     zset  dated key of this generation -> when it is gone
--
-- Errors begin with a word of ours (NOSITE, EXISTS, CHANGED, USED, NOOPERATION, NEWER, EARLY,
-- GAP, FENCED) and are raised before the first write. REJECTED has used up the batch's number, and
-- counted nothing of it, unless a key got a wrong type in the middle of the day: then the first
-- batch that meets it may be counted by half. Nobody was told that it counted.

local DAY_MS = 86400000
local LATE_MS = 3600000 -- ids stay this much longer, so that late hits still find their visit
local SKETCH_MS = 8 * DAY_MS
local DROPS_MS = 431 * DAY_MS -- 400 days behind the last day of a month
local OPERATION_MS = 30 * DAY_MS
local LEDGER_DAYS = 400
local REMEMBERED = 256 -- more batches than are ever sent before the first one's answer is read
local AHEAD_MS = 2000 -- later than now, a hit would end periods before their time
local BYE_MS = 2000 -- a bye younger than this may have been overtaken by the next page's view
local MAX_IDS = 1000000
local TRIM_MS = 60000
local KINDS = {'day', 'week', 'month', 'year'}
local NUMBER_OF = {day = 1, week = 2, month = 3, year = 4}
local SEVERAL = 1000 -- changes of a sketch among so many visitors are within its error
local METRICS = {'p', 'v', 'u'}
local OTHER = '(other)'
local BYE, KNOWN_ONLY = 1, 2 -- flags of a hit, added up
local PLAIN, NEW, HELD = '0', '1', '2' -- what became of a hit

-- The state of a site is a list of texts and numbers, packed by `struct`: it is read and written
-- with every batch, and as fields of a hash that cost four times as much. For each of KINDS the
-- label of the running period; the week that the running day was started with; the day, week and
-- month before, as far as they were asked for. Then of each of KINDS, and in total, pageviews,
-- visits, visitors and how often the sketch changed since the visitors were read from it;
-- pageviews, visits and visitors of the periods before; and the rest by name.
local STATE = '<c10c10c7c4c10c10c10c7' .. 'dddddddddddddddddddd' .. 'ddddddddd' .. 'dddddddd'
local NEVER = {'0000-00-00', '0000-00-00', '0000-00', '0000'} -- less than any label
local DAY, WEEK, BEGAN, BEFORE = 1, 2, 5, 5 -- the label before that of kind k stands at BEFORE + k
local NUMBERS, PREVIOUS = 5, 26 -- those of kind k begin at NUMBERS + 4 * k and PREVIOUS + 3 * k
local YEAR, TOTAL = 4, 5 -- of no year is shown what was before it; the total has no label
local SINCE, LAST, PEAK, PEAK_AT, TRIMMED = 38, 39, 40, 41, 42
local SEEDED, LEFT, CURRENT = 43, 44, 45 -- 1: there are seeds; may be `left`; this generation runs
local PACKED = 46 -- all of them as they lie in the store

local function store_time()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function base_of(tag, site, generation)
  return tag .. ':' .. site .. ':' .. generation .. ':'
end

-- Hits count into the generation they were accepted under, but for one that was undone, and for one
-- that nobody knows any more, since a failover has lost the reset that began it.
local function generations_of(tag, site, accepted)
  local found = redis.call('HMGET', tag .. ':generations', site, site .. ':' .. accepted)
  local current = tonumber(found[1] or accepted)
  local gone = found[2] or accepted > current
  return gone and current or accepted, current
end

local function current_base(tag, site)
  local current = redis.call('HGET', tag .. ':generations', site)
  return current and base_of(tag, site, current)
end

-- The hash that holds a period's numbers, and what its fields begin with.
local function place(kind, label)
  if kind == 'day' then
    return 'day:' .. string.sub(label, 1, 7), string.sub(label, 9)
  elseif kind == 'week' or kind == 'month' then
    return kind .. ':' .. string.sub(label, 1, 4), string.sub(label, 6)
  end
  return kind, label
end

local function sketch_of(base, kind, label)
  return base .. 'visitors:' .. kind .. ':' .. label
end

local function labels_of(day, week)
  return {day, week, string.sub(day, 1, 7), string.sub(day, 1, 4)}
end

local function read_hash(key)
  local fields, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

local function whole(number)
  return string.format('%d', number)
end

local function blank_state()
  local state = {NEVER[1], NEVER[2], NEVER[3], NEVER[4], NEVER[1], NEVER[1], NEVER[2], NEVER[3]}
  for i = #state + 1, PACKED - 1 do
    state[i] = 0
  end
  return state
end

local function load_state(base)
  local packed = redis.call('GET', base .. 'running')
  local state = packed and {struct.unpack(STATE, packed)} or blank_state()
  state[PACKED] = packed
  return state
end

local function save_state(base, state)
  local packed = struct.pack(STATE, unpack(state))
  if packed ~= state[PACKED] then
    redis.call('SET', base .. 'running', packed)
    state[PACKED] = packed
  end
end

local function begin_period(state, k, label, p, v, u)
  local n = NUMBERS + 4 * k
  state[k], state[n], state[n + 1], state[n + 2], state[n + 3] = label, p, v, u, 0
end

local function begin_generation(base, now)
  local state = blank_state()
  state[SINCE], state[CURRENT] = now, 1
  save_state(base, state)
end

local function set_flag(base, flag, value)
  local state = load_state(base)
  state[flag] = value
  save_state(base, state)
end

local function remember(base, name, gone_at)
  redis.call('ZADD', base .. 'index', gone_at or '+inf', name)
end

-- Removes all that a generation counted.
local function forget(base)
  for _, name in ipairs(redis.call('ZRANGE', base .. 'index', 0, -1)) do
    redis.call('UNLINK', base .. name)
  end
  for _, name in ipairs({'running', 'seen', 'left', 'pages', 'seeds', 'index', 'visitors:total'}) do
    redis.call('UNLINK', base .. name)
  end
end

------------------------------------------------------------------------------------------ ledger

-- The epoch and seq of a producer's last batch here, and which it was that were rejected; of one
-- that is unknown 0 and 0.
local function ledger_of(tag, producer)
  local entry = redis.call('HGET', tag .. ':ledger', producer)
  local epoch, seq, rejected = string.match(entry or '0:0:0', '^(%d+):(%d+):%d+:?(.*)$')
  return tonumber(epoch), tonumber(seq), rejected
end

local function write_ledger(tag, producer, epoch, seq, rejected, now)
  local entry = string.format('%d:%d:%d', epoch, seq, math.floor(now / DAY_MS))
  for number in string.gmatch(rejected, '%d+') do
    if tonumber(number) > seq - REMEMBERED then
      entry = entry .. ':' .. number
    end
  end
  redis.call('HSET', tag .. ':ledger', producer, entry)
end

local function was_rejected(rejected, seq)
  return string.find(':' .. rejected .. ':', ':' .. whole(seq) .. ':', 1, true)
end

local function prune_ledger(tag, now)
  for producer, entry in pairs(read_hash(tag .. ':ledger')) do
    local day = tonumber(string.match(entry, '^%d+:%d+:(%d+)') or nil)
    if day and day < now / DAY_MS - LEDGER_DAYS then
      redis.call('HDEL', tag .. ':ledger', producer)
    end
  end
end

--------------------------------------------------------------------------------- visitors of a hit

-- The last view or here of each member, false for one who is not there; and how many are not.
local function last_of(key, members)
  local scores, missing = redis.call('ZMSCORE', key, unpack(members)), 0
  for m = 1, #members do
    if scores[m] then
      scores[m] = tonumber(scores[m])
    else
      missing = missing + 1
    end
  end
  return scores, missing
end

-- Plays a part's hits in their order; brings `last` up to date, and notes in batch.marks what
-- became of each. Answers how many visits began, the newest hit, who was counted, who left.
local function play(part, last, room, batch)
  local visits, newest, counted, left = 0, 0, {}, {}
  local runs, whose, marks, n = part.runs, part.whose, batch.marks, 0
  for r = 1, #runs, 3 do
    local flags, at = runs[r], math.min(runs[r + 1], batch.now)
    newest = math.max(newest, at)
    for _ = 1, runs[r + 2] do
      n = n + 1
      local m, mark = whose and whose[n] or n, PLAIN
      local before = last[m]
      if flags % 2 == BYE then
        if before and before <= at - BYE_MS then
          left[m] = true
        end
      elseif not before and (flags >= KNOWN_ONLY or room <= 0) then
        mark = HELD
        batch.full = batch.full + (flags >= KNOWN_ONLY and 0 or 1)
      else
        if not before then
          mark, room = NEW, room - 1
        end
        if not before or at - before >= part.timeout then
          visits = visits + 1
        end
        last[m] = math.max(before or at, at)
        counted[m], left[m] = true, nil
      end
      marks[#marks + 1] = mark
    end
  end
  return visits, newest, counted, left
end

-- Notes who is online no more, and who is again.
local function take_leave(part, members, last, counted, left)
  local key, leaving, back = part.base .. 'left', {}, {}
  for m in pairs(left) do
    leaving[#leaving + 1] = last[m]
    leaving[#leaving + 1] = members[m]
  end
  if part.state[LEFT] == 1 then
    for m in pairs(counted) do
      back[#back + 1] = not left[m] and members[m] or nil
    end
  end
  if #back > 0 and redis.call('ZREM', key, unpack(back)) > 0 then
    part.state[LEFT] = redis.call('EXISTS', key)
  end
  if #leaving > 0 then
    redis.call('ZADD', key, unpack(leaving))
    if part.state[LEFT] == 0 then
      redis.call('PEXPIRE', key, part.window + LATE_MS)
      part.state[LEFT] = 1
    end
  end
end

-- Once a minute the sets lose whom no hit needs any more, and get a new life: they expire when
-- nobody comes. A set that is empty now is a new one at the next hit, and gets its life there.
local function trim(part, newest)
  local base, state, timeout, window = part.base, part.state, part.timeout, part.window
  if newest - state[TRIMMED] < TRIM_MS then
    return
  end
  redis.call('ZREMRANGEBYSCORE', base .. 'seen', '-inf', newest - timeout - LATE_MS)
  state[TRIMMED] = redis.call('PEXPIRE', base .. 'seen', timeout + LATE_MS) == 1 and newest or 0
  if state[LEFT] == 1 then
    redis.call('ZREMRANGEBYSCORE', base .. 'left', '-inf', newest - window)
    state[LEFT] = redis.call('PEXPIRE', base .. 'left', window + LATE_MS)
  end
end

-- Brings the sets of visitors up to date with a part's hits. Answers how many visits began and
-- who is to be added to the sketches.
local function attend(part, batch)
  local key, number, scores, visitors = part.base .. 'seen', part.visitors, {}, {}
  local members = {struct.unpack(string.rep('c8', number), batch.ids, batch.cursor)}
  batch.cursor, members[number + 1] = members[number + 1], nil -- behind those it read
  local last, strangers = last_of(key, members)
  local room = strangers > 0 and MAX_IDS - redis.call('ZCARD', key) or 0
  local visits, newest, counted, left = play(part, last, room, batch)
  for m = 1, number do
    if counted[m] then
      scores[#scores + 1] = last[m]
      scores[#scores + 1] = members[m]
      visitors[#visitors + 1] = members[m]
    end
  end
  if #visitors > 0 then
    redis.call('ZADD', key, unpack(scores))
  end
  if next(left) or part.state[LEFT] == 1 then
    take_leave(part, members, last, counted, left)
  end
  trim(part, newest)
  return visits, visitors
end

------------------------------------------------------------------------------------------- periods

-- The number of an ended period no longer moves with its sketch, which may then expire.
local function freeze(base, kind, label, now)
  local sketch = sketch_of(base, kind, label)
  if redis.call('EXISTS', sketch) == 0 then
    return
  end
  local hash, field = place(kind, label)
  local known = tonumber(redis.call('HGET', base .. hash, field .. 'u') or 0)
  local visitors = math.max(known, redis.call('PFCOUNT', sketch))
  redis.call('HSET', base .. hash, field .. 'u', visitors)
  redis.call('PEXPIRE', sketch, SKETCH_MS)
  remember(base, 'visitors:' .. kind .. ':' .. label, now + SKETCH_MS)
end

-- Notes the running period's pageviews and visits where those of ended periods are.
local function settle(base, state, k)
  local hash, field = place(KINDS[k], state[k])
  local n = NUMBERS + 4 * k
  redis.call('HSET', base .. hash, field .. 'p', whole(state[n]), field .. 'v', whole(state[n + 1]))
end

-- The pageviews, visits and visitors of a period that does not run.
local function ended_numbers(base, kind, label)
  local hash, field = place(kind, label)
  local found = redis.call('HMGET', base .. hash, field .. 'p', field .. 'v', field .. 'u')
  return tonumber(found[1] or 0), tonumber(found[2] or 0),
    tonumber(found[3] or redis.call('PFCOUNT', sketch_of(base, kind, label)))
end

-- The first hit of a newer label ends the running period of that kind.
local function turn_periods(part, now)
  local base, state, labels = part.base, part.state, part.labels
  if labels[DAY] == state[DAY] and labels[WEEK] == state[WEEK] then
    return
  end
  for k, kind in ipairs(KINDS) do
    local label, running = labels[k], state[k]
    if label > running then
      if running ~= NEVER[k] then
        settle(base, state, k)
        freeze(base, kind, running, now)
      end
      begin_period(state, k, label, ended_numbers(base, kind, label))
      remember(base, (place(kind, label)))
      remember(base, 'visitors:' .. kind .. ':' .. label)
      if k == DAY then
        state[BEGAN] = labels[WEEK]
        redis.call('ZREMRANGEBYSCORE', base .. 'index', '-inf', now)
      end
    end
  end
end

-- A late hit adds its visitor only while the sketch lives, and never lowers a frozen number.
local function add_late_visitors(base, kind, label, visitors, now)
  local sketch = sketch_of(base, kind, label)
  local hash, field = place(kind, label)
  local frozen = tonumber(redis.call('HGET', base .. hash, field .. 'u'))
  local alive = redis.call('EXISTS', sketch) == 1
  if frozen and not alive then
    return
  end
  redis.call('PFADD', sketch, unpack(visitors))
  if not alive then
    redis.call('PEXPIRE', sketch, SKETCH_MS)
    remember(base, (place(kind, label)))
    remember(base, 'visitors:' .. kind .. ':' .. label, now + SKETCH_MS)
  end
  local visitors_now = redis.call('PFCOUNT', sketch)
  redis.call('HSET', base .. hash, field .. 'u', math.max(frozen or 0, visitors_now))
end

-- Adds to a running sketch; answers whether that changed it. To read a large sketch costs more than
-- to add to it, so its number may lag by a thousandth.
local function add_to_sketch(sketch, state, k, visitors)
  if redis.call('PFADD', sketch, unpack(visitors)) == 0 then
    return false
  end
  local u, x = NUMBERS + 4 * k + 2, NUMBERS + 4 * k + 3
  state[x] = state[x] + #visitors
  if state[x] * SEVERAL >= state[u] then
    state[u], state[x] = math.max(state[u], redis.call('PFCOUNT', sketch)), 0
  end
  return true
end

-- Whoever changes nothing in the day's sketch is in the longer periods' sketches already, since
-- every visitor of the day was added to all of them: to those of the labels the day began with.
local function add_visitors(part, visitors, now)
  local base, state, labels = part.base, part.state, part.labels
  for k, kind in ipairs(KINDS) do
    if labels[k] < state[k] then
      add_late_visitors(base, kind, labels[k], visitors, now)
    else
      local changed = add_to_sketch(sketch_of(base, kind, labels[k]), state, k, visitors)
      if k == DAY and not changed and labels[WEEK] == state[BEGAN] then
        return
      end
    end
  end
  add_to_sketch(base .. 'visitors:total', state, TOTAL, visitors)
end

-- Has the numbers of the period before the running one read anew.
local function forget_previous(state, k)
  if k ~= YEAR then
    state[BEFORE + k] = NEVER[k]
  end
end

local function add_late_numbers(part, k, pageviews, visits)
  local hash, field = place(KINDS[k], part.labels[k])
  if pageviews > 0 then
    redis.call('HINCRBY', part.base .. hash, field .. 'p', pageviews)
  end
  if visits > 0 then
    redis.call('HINCRBY', part.base .. hash, field .. 'v', visits)
  end
  remember(part.base, hash)
  forget_previous(part.state, k)
end

local function add_numbers(part, visits)
  local state, labels, pageviews = part.state, part.labels, part.pageviews
  for k = 1, TOTAL do
    if k ~= TOTAL and labels[k] < state[k] then
      add_late_numbers(part, k, pageviews, visits)
    else
      local n = NUMBERS + 4 * k
      state[n], state[n + 1] = state[n] + pageviews, state[n + 1] + visits
    end
  end
end

local function add_pages(part)
  local key, paths, views = part.base .. 'pages', part.paths, part.views
  if #paths == 1 and redis.call('ZADD', key, 'XX', 'INCR', views[1], paths[1]) then
    return
  end
  local known, flat, others, room = redis.call('ZMSCORE', key, unpack(paths)), {}, 0, nil
  for i, path in ipairs(paths) do
    if not known[i] then
      room = (room or part.max_pages - redis.call('ZCARD', key)) - 1
    end
    if known[i] or room >= 0 then
      flat[#flat + 1] = (known[i] or 0) + views[i]
      flat[#flat + 1] = path
    else
      others = others + views[i]
    end
  end
  if #flat > 0 then
    redis.call('ZADD', key, unpack(flat))
  end
  if others > 0 then
    redis.call('ZINCRBY', key, others, OTHER)
  end
end

local function add_drops(base, day, drops, now)
  local name = 'drops:' .. string.sub(day, 1, 7)
  for i = 1, #drops, 2 do
    redis.call('HINCRBY', base .. name, string.sub(day, 9) .. ':' .. drops[i], drops[i + 1])
  end
  redis.call('PEXPIRE', base .. name, DROPS_MS)
  remember(base, name, now + DROPS_MS)
end

-- Raises an error for a key of a type that counting it would stumble over.
local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    error(key .. ' is a ' .. found .. ' and no ' .. kind, 0)
  end
end

local function expect_sketch(key)
  local found = redis.pcall('PFCOUNT', key)
  if type(found) == 'table' then
    error(key .. ': ' .. found.err, 0)
  end
end

local function expect_period(base, kind, label)
  expect(base .. place(kind, label), 'hash')
  expect_sketch(sketch_of(base, kind, label))
end

-- Looks at every key that counting a part and reading the counts touches.
local function probe_part(part)
  local base, labels = part.base, part.labels
  for _, name in ipairs({'seen', 'left', 'pages', 'index'}) do
    expect(base .. name, 'zset')
  end
  for k, kind in ipairs(KINDS) do
    expect_period(base, kind, labels[k])
    expect_period(base, kind, part.state[k])
    if k ~= YEAR then
      expect_period(base, kind, part.view[2 * k])
    end
  end
  expect_sketch(base .. 'visitors:total')
  expect(base .. 'seeds', 'hash')
  expect(base .. 'drops:' .. string.sub(labels[DAY], 1, 7), 'hash')
end

-- Counts the hits and drops of a part.
local function add_hits(part, batch)
  local state, visits, visitors = part.state, 0, {}
  if part.visitors > 0 then
    visits, visitors = attend(part, batch)
  end
  if part.pageviews > 0 or #visitors > 0 then
    turn_periods(part, batch.now)
    add_numbers(part, visits)
    if part.paths then
      add_pages(part)
    end
    if #visitors > 0 then
      add_visitors(part, visitors, batch.now)
    end
    state[LAST] = math.max(state[LAST], math.min(part.newest, batch.now))
  end
  if part.drops then
    add_drops(part.base, part.labels[DAY], part.drops, batch.now)
  end
end

------------------------------------------------------------------------------------------- reading

local function online_now(base, state, window, now)
  local online = redis.call('ZCOUNT', base .. 'seen', now - window + 1, '+inf')
  if state[LEFT] == 1 then
    online = online - redis.call('ZCOUNT', base .. 'left', now - window + 1, '+inf')
  end
  return online
end

-- A period's pageviews, visits and visitors.
local function numbers_of(base, state, k, label)
  if label == state[k] then
    local n = NUMBERS + 4 * k
    return state[n], state[n + 1], state[n + 2]
  elseif k ~= YEAR and label == state[BEFORE + k] then
    local n = PREVIOUS + 3 * k
    return state[n], state[n + 1], state[n + 2]
  end
  return ended_numbers(base, KINDS[k], label)
end

-- The previous periods seldom change: while counting they are kept where the running ones are. Not
-- so a period that runs still, since another worker counts into it.
local function keep_previous(part)
  local state, view = part.state, part.view
  for k = DAY, YEAR - 1 do
    local label = view[2 * k]
    if label ~= state[BEFORE + k] and label ~= state[k] then
      local n = PREVIOUS + 3 * k
      state[n], state[n + 1], state[n + 2] = ended_numbers(part.base, KINDS[k], label)
      state[BEFORE + k] = label
    end
  end
end

local NO_COUNTS = {
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
}
local SEEDS = 30 -- how many seeds follow

-- Adds what an admin added to the numbers of the asked periods, and tells of it.
local function add_seeds(base, view, counts)
  local seeds = read_hash(base .. 'seeds')
  for n = 1, 8 do -- today, yesterday ... year, total
    local period = n == 8 and 'total:' or KINDS[math.ceil(n / 2)] .. ':' .. view[n]
    for m, metric in ipairs(METRICS) do
      local seed = tonumber(seeds[period .. ':' .. metric] or 0)
      if seed ~= 0 then
        local i = 3 * n - 2 + m
        counts[i] = math.max(0, counts[i] + seed)
        counts[#counts + 1], counts[#counts + 2], counts[#counts + 3] = n, m, seed
        counts[SEEDS] = counts[SEEDS] + 1
      end
    end
  end
end

-- `view` names the periods as of now: today, yesterday, week, last week, month, last month, year.
-- Answers packed integers: online; pageviews, visits and visitors of each of these periods and in
-- total, with what an admin added and never below 0; since, last hit, peak, its instant; how many
-- seeds, and of each the numbers of its period and metric, and the amount; pageviews of the paths.
local function counts_of(base, state, view, online, paths)
  local counts = {unpack(NO_COUNTS)}
  counts[1] = online
  for n = 1, 7 do
    local i = 3 * n - 1
    counts[i], counts[i + 1], counts[i + 2] = numbers_of(base, state, math.ceil(n / 2), view[n])
  end
  for i = 0, 2 do
    counts[23 + i] = state[NUMBERS + 4 * TOTAL + i]
  end
  for i = 0, 3 do
    counts[26 + i] = state[SINCE + i]
  end
  if state[SEEDED] == 1 then
    add_seeds(base, view, counts)
  end
  for _, path in ipairs(paths or {}) do
    counts[#counts + 1] = redis.call('ZSCORE', base .. 'pages', path) or 0
  end
  return struct.pack('<' .. string.rep('i8', #counts), unpack(counts))
end

---------------------------------------------------------------------------------------------- undo

-- Sketches merge while they live; else the numbers add, and the sum is marked approximate.
-- Answers 1 for an approximate sum.
local function merge_visitors(from, into, kind, label)
  local source, target = sketch_of(from, kind, label), sketch_of(into, kind, label)
  local hash, field = place(kind, label)
  local theirs = redis.call('HGET', from .. hash, field .. 'u')
  local ours = redis.call('HGET', into .. hash, field .. 'u')
  local target_lives = redis.call('EXISTS', target) == 1
  if redis.call('EXISTS', source) == 1 and (target_lives or not ours) then
    redis.call('PFMERGE', target, source)
    remember(into, 'visitors:' .. kind .. ':' .. label)
    return 0
  end
  if not ours and not target_lives then
    redis.call('HSET', into .. hash, field .. 'u', theirs)
    return 0
  end
  local sum = (theirs or redis.call('PFCOUNT', source)) + (ours or redis.call('PFCOUNT', target))
  redis.call('HSET', into .. hash, field .. 'u', sum, field .. 'a', 1)
  return 1
end

-- Adds a hash of numbers; notes in `labels` the periods whose visitors are to be merged.
local function merge_numbers(from, into, name, labels)
  local kind, stem = string.match(name, '^(%a+):?(.*)$')
  for field, value in pairs(read_hash(from .. name)) do
    local part, metric = string.match(field, '^(.*)(%a)$')
    if metric == 'u' then
      local label = stem == '' and part or stem .. '-' .. part
      labels[kind .. ' ' .. label] = true
    elseif metric == 'a' then
      redis.call('HSET', into .. name, field, value)
    else
      redis.call('HINCRBY', into .. name, field, value)
    end
  end
  remember(into, name)
end

local function merge_drops(from, into, name, now)
  for field, hits in pairs(read_hash(from .. name)) do
    redis.call('HINCRBY', into .. name, field, hits)
  end
  redis.call('PEXPIRE', into .. name, DROPS_MS)
  remember(into, name, now + DROPS_MS)
end

-- The smaller set goes into the larger: after a reset that is little, and the larger one may have
-- a million members.
local function merge_set(from, into, name, add)
  local source, target, few = from .. name, into .. name, from .. name
  if redis.call('EXISTS', source) == 0 then
    return
  end
  local life = math.max(redis.call('PTTL', source), redis.call('PTTL', target))
  if redis.call('ZCARD', source) > redis.call('ZCARD', target) then
    few = from .. 'few'
    if redis.call('EXISTS', target) == 1 then
      redis.call('RENAME', target, few)
    end
    redis.call('RENAME', source, target)
  end
  local members = redis.call('ZRANGE', few, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    add(target, members[i + 1], members[i])
  end
  redis.call('UNLINK', few)
  if life > 0 then
    redis.call('PEXPIRE', target, life)
  end
end

local function keep_later(key, score, member)
  redis.call('ZADD', key, 'GT', score, member)
end

local function add_score(key, score, member)
  redis.call('ZINCRBY', key, score, member)
end

local function merge_seeds(from, into, state)
  for field, amount in pairs(read_hash(from .. 'seeds')) do
    redis.call('HINCRBY', into .. 'seeds', field, amount)
    state[SEEDED] = 1
  end
end

-- Who left one generation may have come back to the other: then both sets differ.
local function merge_left(from, into, state)
  merge_set(from, into, 'left', keep_later)
  local members = redis.call('ZRANGE', into .. 'left', 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    if redis.call('ZSCORE', into .. 'seen', members[i]) ~= members[i + 1] then
      redis.call('ZREM', into .. 'left', members[i])
    end
  end
  state[LEFT] = redis.call('EXISTS', into .. 'left')
end

local function merge_total(from, into, theirs, ours)
  local n = NUMBERS + 4 * TOTAL
  redis.call('PFMERGE', into .. 'visitors:total', from .. 'visitors:total')
  ours[n], ours[n + 1] = ours[n] + theirs[n], ours[n + 1] + theirs[n + 1]
  ours[n + 2], ours[n + 3] = redis.call('PFCOUNT', into .. 'visitors:total'), 0
  ours[SINCE] = math.min(ours[SINCE], theirs[SINCE])
  ours[LAST] = math.max(ours[LAST], theirs[LAST])
  if theirs[PEAK] > ours[PEAK] then
    ours[PEAK], ours[PEAK_AT] = theirs[PEAK], theirs[PEAK_AT]
  end
end

-- Of both generations' running periods the newer one runs on; the older one is frozen.
local function merge_running(into, theirs, ours, now)
  if theirs[DAY] > ours[DAY] then
    ours[BEGAN] = theirs[BEGAN]
  elseif theirs[DAY] == ours[DAY] and theirs[BEGAN] ~= ours[BEGAN] then
    ours[BEGAN] = NEVER[WEEK]
  end
  for k, kind in ipairs(KINDS) do
    local older, newer = theirs[k], ours[k]
    if older > newer then
      older, newer = newer, older
    end
    if older ~= newer and older ~= NEVER[k] then
      freeze(into, kind, older, now)
    end
    if newer ~= NEVER[k] then
      begin_period(ours, k, newer, ended_numbers(into, kind, newer))
      remember(into, 'visitors:' .. kind .. ':' .. newer)
    end
    forget_previous(ours, k)
  end
end

local function settle_all(base, state)
  for k = 1, #KINDS do
    if state[k] ~= NEVER[k] then
      settle(base, state, k)
    end
  end
end

-- Adds all that one generation counted to another. Answers how many sums are approximate.
local function merge(from, into, now)
  local theirs, ours = load_state(from), load_state(into)
  settle_all(from, theirs)
  settle_all(into, ours)
  local names, labels, approximate = redis.call('ZRANGE', from .. 'index', 0, -1), {}, 0
  for _, name in ipairs(names) do
    local kind, label = string.match(name, '^visitors:(%a+):(.*)$')
    if kind then
      if redis.call('EXISTS', from .. name) == 1 then
        labels[kind .. ' ' .. label] = true
      end
    elseif string.sub(name, 1, 6) == 'drops:' then
      merge_drops(from, into, name, now)
    else
      merge_numbers(from, into, name, labels)
    end
  end
  for period in pairs(labels) do
    local kind, label = string.match(period, '^(%a+) (.*)$')
    approximate = approximate + merge_visitors(from, into, kind, label)
    local k = NUMBER_OF[kind]
    if label < ours[k] or label < theirs[k] then
      freeze(into, kind, label, now)
    end
  end
  merge_set(from, into, 'seen', keep_later)
  merge_set(from, into, 'pages', add_score)
  merge_left(from, into, ours)
  merge_seeds(from, into, ours)
  merge_total(from, into, theirs, ours)
  merge_running(into, theirs, ours, now)
  save_state(into, ours)
  forget(from)
  return approximate
end

----------------------------------------------------------------------------------------- functions

local PART_FIELDS = 23

-- A part is what a batch holds of one site and one day.
local function part_named(packed)
  return {
    site = packed[2], generation = packed[3], window = packed[4], timeout = packed[5],
    max_pages = packed[6],
    view = {
      packed[7], packed[8], packed[9], packed[10], packed[11], packed[12], packed[13],
    },
    asked = packed[14], labels = labels_of(packed[15], packed[16]), pageviews = packed[17],
    newest = packed[18], paths = packed[19], views = packed[20], drops = packed[21],
    visitors = packed[22], runs = packed[23], whose = packed[24], ended = packed[1],
  }
end

local function check_hits(part)
  local hits = 0
  for r = 3, #part.runs, 3 do
    hits = hits + part.runs[r]
  end
  assert(hits == (part.whose and #part.whose or part.visitors), 'not that many hits')
end

-- The parts of a batch, and its newest hit; raises an error for what we did not pack. It is one
-- long list of msgpack, of which each part is read by itself behind the list's head.
local function unpack_batch(packed, ids)
  local parts, newest, visitors, at = {}, 0, 0, 3
  repeat
    local part = part_named({cmsgpack.unpack_limit(packed, PART_FIELDS, at)})
    check_hits(part)
    parts[#parts + 1], newest = part, math.max(newest, part.newest)
    visitors, at = visitors + part.visitors, part.ended
  until at == -1
  assert(#ids == visitors * 8, 'not that many visitors')
  return parts, newest
end

-- redis.call raises tables, Lua raises strings.
local function reason_of(problem)
  return type(problem) == 'table' and tostring(problem.err) or tostring(problem)
end

-- Finds out what a part counts into: the generation that its hits were accepted under if that one
-- runs still, as its state tells. Parts that count into the same share its state.
local function find_base(part, batch)
  local function enter(generation)
    part.base = base_of(batch.tag, part.site, generation)
    batch.states[part.base] = batch.states[part.base] or load_state(part.base)
    part.state = batch.states[part.base]
  end
  enter(part.generation)
  if part.state[CURRENT] == 0 then
    local counted, current = generations_of(batch.tag, part.site, part.generation)
    enter(counted)
    part.current = current ~= counted and base_of(batch.tag, part.site, current)
  end
end

-- The counts of a generation that nothing is counted into. `asked` has a view, a window, and paths.
local function counts_at(base, asked, now)
  local state = load_state(base)
  return counts_of(base, state, asked.view, online_now(base, state, asked.window, now), asked.asked)
end

-- Counts a part; answers its site's counts.
local function count_part(part, batch)
  local base, state, now = part.base, part.state, batch.now
  add_hits(part, batch)
  local online = online_now(base, state, part.window, now)
  if online > state[PEAK] then
    state[PEAK], state[PEAK_AT] = online, now
  end
  keep_previous(part)
  save_state(base, state)
  if part.current then
    return counts_at(part.current, part, now)
  end
  return counts_of(base, state, part.view, online, part.asked)
end

-- Counts a batch; answers why not, and then nothing was written. May raise an error. What a day's
-- first hit makes is probed before the first write, and everything is for a while after a batch was
-- rejected: a key of a wrong type stops a batch whole.
local function count_batch(batch, packed)
  local parts, newest = unpack_batch(packed, batch.ids)
  if newest > batch.now + AHEAD_MS then
    return 'EARLY ' .. whole(batch.now) .. ' ' .. whole(newest - AHEAD_MS)
  end
  for _, part in ipairs(parts) do
    find_base(part, batch)
    if batch.rejected ~= '' or part.labels[DAY] ~= part.state[DAY] then
      probe_part(part)
    end
  end
  write_ledger(batch.tag, batch.producer, batch.epoch, batch.seq, batch.rejected, batch.now)
  for n, part in ipairs(parts) do
    batch.counts[n] = count_part(part, batch)
  end
end

-- Answers for a batch that was counted before.
local function look_again(batch, packed)
  local tag, parts = batch.tag, unpack_batch(packed, batch.ids)
  -- so that a WAIT behind it counts
  write_ledger(tag, batch.producer, batch.epoch, batch.last, batch.rejected, batch.now)
  for n, part in ipairs(parts) do
    local base = current_base(tag, part.site) or base_of(tag, part.site, part.generation)
    batch.counts[n] = counts_at(base, part, batch.now)
  end
end

-- record(tag; producer, epoch, seq, parts, ids) counts one batch, all or nothing, and only once: a
-- producer numbers its batches of a partition 1, 2, 3 ... and the ledger, written in the same unit
-- as the counts, knows the last. A batch that comes again (DUP) only reads.
-- parts: msgpack, see part_named; ids: the visitors of all parts, in their order. Answers {now,
-- what became of each hit with a visitor (PLAIN, NEW or HELD, one behind the other), hits held
-- because a site's set is full, 1 for DUP, counts of the first part's site, of the second's ...}.
local function record(keys, args)
  local tag, producer, now = keys[1], args[1], store_time()
  local epoch, seq = tonumber(args[2]), tonumber(args[3])
  local known_epoch, last, rejected = ledger_of(tag, producer)
  local again = seq <= last
  if known_epoch > epoch then
    return redis.error_reply('FENCED ' .. whole(known_epoch))
  elseif seq > last + 1 or known_epoch < epoch then -- or the store has lost that epoch's beginning
    return redis.error_reply('GAP ' .. whole(last))
  elseif again and was_rejected(rejected, seq) then
    return redis.error_reply('REJECTED and so it was before')
  end

  local batch = {
    tag = tag, producer = producer, epoch = epoch, seq = seq, last = last, rejected = rejected,
    now = now, ids = args[5], cursor = 1, states = {}, marks = {}, full = 0, counts = {},
  }
  local well, problem = pcall(again and look_again or count_batch, batch, args[4])
  if not well then
    if not again then
      write_ledger(tag, producer, epoch, seq, rejected .. ':' .. whole(seq), now)
    end
    return redis.error_reply('REJECTED ' .. reason_of(problem))
  elseif problem then
    return redis.error_reply(problem)
  end
  return {now, table.concat(batch.marks), batch.full, again and 1 or 0, unpack(batch.counts)}
end

-- open(tag; producer, epoch, seq or '') begins a producer's epoch and answers the seq of its last
-- batch here. FENCED, with the epoch in force, for one that is not later. With a seq it goes on in
-- this epoch, and passes a hole: batches up to that one are given up.
local function open(keys, args)
  local tag, producer, epoch, now = keys[1], args[1], tonumber(args[2]), store_time()
  local known_epoch, last, rejected = ledger_of(tag, producer)
  local passed = tonumber(args[3])
  if known_epoch > epoch or known_epoch == epoch and not passed then
    return redis.error_reply('FENCED ' .. whole(known_epoch))
  end
  prune_ledger(tag, now)
  last = math.max(last, passed or 0)
  write_ledger(tag, producer, epoch, last, rejected, now)
  return last
end

-- last_seq(tag; producer, epoch) answers the seq of the producer's last batch here, and notes that
-- the producer lives.
local function last_seq(keys, args)
  local tag, producer, epoch, now = keys[1], args[1], tonumber(args[2]), store_time()
  local known_epoch, last, rejected = ledger_of(tag, producer)
  if known_epoch > epoch then
    return redis.error_reply('FENCED ' .. whole(known_epoch))
  end
  if known_epoch == epoch then
    write_ledger(tag, producer, epoch, last, rejected, now)
  end
  return last
end

-- counts(tag; msgpack {site, online_window, view, paths or nil}) answers {now, counts}.
local function counts(keys, args)
  local asked = cmsgpack.unpack(args[1])
  local base, now = current_base(keys[1], asked[1]), store_time()
  if not base then
    return redis.error_reply('NOSITE no such site')
  end
  return {now, counts_at(base, {window = asked[2], view = asked[3], asked = asked[4]}, now)}
end

-- sites(tag; version) answers nothing if that is the version, else {version, site -> settings,
-- site -> generation}, both as flat lists.
local function sites(keys, args)
  local version = redis.call('HGET', keys[1] .. ':sites', '#') or '0'
  if version == args[1] then
    return false
  end
  return {version, redis.call('HGETALL', keys[1] .. ':sites'),
    redis.call('HGETALL', keys[1] .. ':generations')}
end

-- An operation is done once: its id answers for it 30 days long, with what kind it was.
local function done_before(tag, site, operation)
  local done = redis.call('HGET', tag .. ':operations:' .. site, operation)
  return done and string.match(done, '^%a+')
end

local function other_kind(kind)
  return redis.error_reply('USED that operation was a ' .. kind)
end

local function keep_operation(tag, site, operation, what, now)
  local key = tag .. ':operations:' .. site
  for id, done in pairs(read_hash(key)) do
    local kind, generation, at = string.match(done, '^(%a+):(%d+):(%d+)$')
    if tonumber(at) < now - OPERATION_MS then
      redis.call('HDEL', key, id)
      if kind == 'reset' then -- nothing can bring that generation back any more
        forget(base_of(tag, site, generation))
      end
    end
  end
  redis.call('HSET', key, operation, what .. ':' .. now)
  redis.call('HINCRBY', tag .. ':sites', '#', 1)
end

-- put_site(tag; site, settings, those it replaces or '', operation or '') makes or changes a site.
-- Answers {creation or change, 1 if it was done now}.
local function put_site(keys, args)
  local tag, site, settings, before, operation = keys[1], args[1], args[2], args[3], args[4]
  local kind = done_before(tag, site, operation)
  if kind == 'creation' or kind == 'change' then
    return {kind, 0}
  elseif kind then
    return other_kind(kind)
  end
  local found, now = redis.call('HGET', tag .. ':sites', site), store_time()
  if before == '' and found then
    return redis.error_reply('EXISTS there is such a site')
  elseif before ~= '' and found ~= before then
    return redis.error_reply('CHANGED the site was changed meanwhile')
  end
  if not found then
    redis.call('HSET', tag .. ':generations', site, 1)
    begin_generation(base_of(tag, site, 1), now)
  end
  redis.call('HSET', tag .. ':sites', site, settings)
  redis.call('HINCRBY', tag .. ':sites', '#', 1)
  kind = found and 'change' or 'creation'
  if operation ~= '' then
    keep_operation(tag, site, operation, kind .. ':0', now)
  end
  return {kind, 1}
end

-- done(tag; site, operation) answers what kind that operation was; nothing if it was not done.
local function done(keys, args)
  return done_before(keys[1], args[1], args[2])
end

-- reset(tag; site, operation) begins the next generation; the operation's id undoes it.
local function reset(keys, args)
  local tag, site, operation, now = keys[1], args[1], args[2], store_time()
  local kind = done_before(tag, site, operation)
  if kind then
    return kind == 'reset' and 0 or other_kind(kind)
  elseif not current_base(tag, site) then
    return redis.error_reply('NOSITE no such site')
  end
  local generation = redis.call('HINCRBY', tag .. ':generations', site, 1)
  set_flag(base_of(tag, site, generation - 1), CURRENT, 0)
  begin_generation(base_of(tag, site, generation), now)
  keep_operation(tag, site, operation, 'reset:' .. (generation - 1), now)
  return 1
end

-- The generation that a reset moved away and that is the newest still away; else why not.
local function moved_generation(tag, site, operation)
  local entry = redis.call('HGET', tag .. ':operations:' .. site, operation)
  local moved = tonumber(entry and string.match(entry, '^reset:(%d+):') or nil)
  if not moved then
    return nil, 'NOOPERATION no such reset in the last 30 days'
  end
  local current = tonumber(redis.call('HGET', tag .. ':generations', site))
  for later = moved + 1, current - 1 do
    if redis.call('HEXISTS', tag .. ':generations', site .. ':' .. later) == 0 then
      return nil, 'NEWER a newer reset must be undone first'
    end
  end
  return moved, current
end

-- undo(tag; site, operation of a reset) adds the moved generation back to the current one.
-- Answers {1 if it was done now, how many visitor numbers are approximate}.
local function undo(keys, args)
  local tag, site, operation, now = keys[1], args[1], args[2], store_time()
  local moved, current = moved_generation(tag, site, operation)
  if not moved then
    return redis.error_reply(current)
  elseif redis.call('HEXISTS', tag .. ':generations', site .. ':' .. moved) == 1 then
    return {0, 0}
  end
  local approximate = merge(base_of(tag, site, moved), base_of(tag, site, current), now)
  redis.call('HSET', tag .. ':generations', site .. ':' .. moved, 'undone')
  redis.call('HINCRBY', tag .. ':sites', '#', 1)
  return {1, approximate}
end

-- seed(tag; site, operation, metric, kind, label, amount ...) adds to periods.
local function seed(keys, args)
  local tag, site, operation = keys[1], args[1], args[2]
  local base, kind = current_base(tag, site), done_before(tag, site, operation)
  if kind then
    return kind == 'seed' and 0 or other_kind(kind)
  elseif not base then
    return redis.error_reply('NOSITE no such site')
  end
  for i = 4, #args, 3 do
    local field = args[i] .. ':' .. args[i + 1] .. ':' .. args[3]
    redis.call('HINCRBY', base .. 'seeds', field, args[i + 2])
  end
  set_flag(base, SEEDED, 1)
  keep_operation(tag, site, operation, 'seed:0', store_time())
  return 1
end

-- drops(tag; site, month ...) answers the drops of each month as a flat list: day:reason, hits.
local function drops(keys, args)
  local base, months = current_base(keys[1], args[1]), {}
  if not base then
    return redis.error_reply('NOSITE no such site')
  end
  for i = 2, #args do
    months[i - 1] = redis.call('HGETALL', base .. 'drops:' .. args[i])
  end
  return months
end

-- install(meta key; schema, partitions, secret) makes the installation's record once; answers it.
local function install(keys, args)
  for i, field in ipairs({'schema', 'partitions', 'secret'}) do
    redis.call('HSETNX', keys[1], field, args[i])
  end
  return redis.call('HMGET', keys[1], 'schema', 'partitions', 'secret')
end

-- adopt(tag; installation) makes the partition the installation's.
local function adopt(keys, args)
  return redis.call('HSET', keys[1] .. ':ledger', '#', args[1])
end

-- probe(tag) answers {now, installation}. It writes nothing, but is refused whenever writes are.
local function probe(keys)
  return {store_time(), redis.call('HGET', keys[1] .. ':ledger', '#')}
end

-- rehearse(tag) uses every command that any function uses, on keys that nothing else has: where one
-- is forbidden to this user, it is found out before a hit is.
local function rehearse(keys)
  local tag = keys[1] .. ':rehearsal:'
  local zset, other, hash, sketch = tag .. 'zset', tag .. 'other', tag .. 'hash', tag .. 'sketch'
  local text = tag .. 'text'
  redis.call('GET', text)
  redis.call('SET', text, 'a')
  redis.call('ZADD', zset, 'GT', 1, 'a')
  redis.call('ZADD', zset, 'XX', 'INCR', 1, 'a')
  redis.call('ZINCRBY', zset, 1, 'a')
  redis.call('ZMSCORE', zset, 'a')
  redis.call('ZSCORE', zset, 'a')
  redis.call('ZCARD', zset)
  redis.call('ZCOUNT', zset, '-inf', '+inf')
  redis.call('ZRANGE', zset, 0, -1)
  redis.call('RENAME', zset, other)
  redis.call('ZREM', other, 'b')
  redis.call('ZREMRANGEBYSCORE', other, '-inf', 0)
  redis.call('PEXPIRE', other, 1000)
  redis.call('PTTL', other)
  redis.call('TYPE', other)
  redis.call('HSET', hash, 'a', 1)
  redis.call('HSETNX', hash, 'a', 1)
  redis.call('HGET', hash, 'a')
  redis.call('HMGET', hash, 'a')
  redis.call('HGETALL', hash)
  redis.call('HEXISTS', hash, 'a')
  redis.call('HINCRBY', hash, 'a', 1)
  redis.call('HDEL', hash, 'b')
  redis.call('PFADD', sketch, 'a')
  redis.call('PFMERGE', sketch, sketch)
  redis.call('PFCOUNT', sketch)
  redis.call('EXISTS', zset)
  for _, key in ipairs({zset, other, hash, sketch, text}) do
    redis.call('UNLINK', key)
  end
  return store_time()
end

-- While a library loads there is nothing but `redis`, not even pairs().
redis.register_function('__library___record', record)
redis.register_function('__library___open', open)
redis.register_function('__library___last_seq', last_seq)
redis.register_function('__library___put_site', put_site)
redis.register_function('__library___reset', reset)
redis.register_function('__library___undo', undo)
redis.register_function('__library___seed', seed)
redis.register_function('__library___install', install)
redis.register_function('__library___adopt', adopt)
redis.register_function('__library___probe', probe)
redis.register_function('__library___rehearse', rehearse)
-- PFCOUNT may write its cache, so `counts` is no read-only function, but it needs no memory.
redis.register_function({
  function_name = '__library___counts', callback = counts, flags = {'allow-oom'},
})
redis.register_function({
  function_name = '__library___sites', callback = sites, flags = {'no-writes'},
})
redis.register_function({
  function_name = '__library___done', callback = done, flags = {'no-writes'},
})
redis.register_function({
  function_name = '__library___drops', callback = drops, flags = {'no-writes'},
})
