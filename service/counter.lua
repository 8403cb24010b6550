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
--   online, seen              zset  visitor (8 bytes) -> last view or here        expire when quiet
--   day:2026-11               hash  22p 22v 22u -> pageviews, visits, frozen visitors of a day that
--                                   has ended; 22a: those visitors are an approximate sum
--   week:2026                 hash  11-16p ...     of the week that begins on that day
--   month:2026, year          hash  11p ..., 2026p ...
--   total                     hash  day week month year total: `label p v u x` of the running one,
--                                   whose sketch changed x times since u was read from it;
--                                   day- week- month-: of the one before; began: the week that
--                                   day was started with; since, last, peak, peak_at; trimmed:
--                                   instant; seed:<kind>:<label>:<p|v|u>; seeded: there are seeds
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
local SEVERAL = 1000 -- changes of a sketch among so many visitors are within its error
local METRICS = {'p', 'v', 'u'}
local OTHER = '(other)'
local BYE, KNOWN_ONLY = 1, 2 -- flags of a hit, added up

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
  return string.format('%.0f', number)
end

-- A site is a table with its `base`. `total`, `changes` and `periods` are what it counted, as it
-- lies in the store, and what of that this call has changed.
local function load_total(site)
  site.total, site.changes, site.periods = read_hash(site.base .. 'total'), {}, {}
  return site
end

local function set(site, field, value)
  site.total[field] = value
  site.changes[field] = value
end

-- The numbers that a field of `total` holds: {label, p, v, u, x}, or false.
local function period_of(site, field)
  local period = site.periods[field]
  if period == nil then
    local label, p, v, u, x = string.match(site.total[field] or '',
      '^(%S+) (%d+) (%d+) (%d+) (%d+)$')
    period = label and {label, tonumber(p), tonumber(v), tonumber(u), tonumber(x)} or false
    site.periods[field] = period
  end
  return period
end

local function begin_period(site, field, label, p, v, u)
  local period = {label, p, v, u, 0, changed = true}
  site.periods[field] = period
  return period
end

local function save_total(site)
  local flat = {}
  for field, period in pairs(site.periods) do
    if period and period.changed then
      flat[#flat + 1] = field
      flat[#flat + 1] = string.format('%s %.0f %.0f %.0f %.0f', unpack(period))
    end
  end
  for field, value in pairs(site.changes) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  if #flat > 0 then
    redis.call('HSET', site.base .. 'total', unpack(flat))
  end
end

local function remember(base, name, gone_at)
  redis.call('ZADD', base .. 'index', gone_at or '+inf', name)
end

-- Removes all that a generation counted.
local function forget(base)
  for _, name in ipairs(redis.call('ZRANGE', base .. 'index', 0, -1)) do
    redis.call('UNLINK', base .. name)
  end
  for _, name in ipairs({'total', 'online', 'seen', 'pages', 'index', 'visitors:total'}) do
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
  local entry = whole(epoch) .. ':' .. whole(seq) .. ':' .. whole(math.floor(now / DAY_MS))
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

-- The visitors of a section's hits, each once, and for each hit which of them it is.
local function visitors_of(hits, ids, cursor)
  local members, number_of, whose = {}, {}, {}
  for i = 1, #hits / 2 do
    local id = string.sub(ids, (cursor + i) * 8 - 7, (cursor + i) * 8)
    if not number_of[id] then
      members[#members + 1] = id
      number_of[id] = #members
    end
    whose[i] = number_of[id]
  end
  return members, whose
end

-- Plays the hits in their order. `seen` and `online` hold each visitor's last view or here and are
-- brought up to date; answers {visits that began, newest hit, who was counted, who left}.
local function play(hits, whose, seen, online, timeout, room, cursor, now, reply)
  local outcome = {visits = 0, newest = 0, counted = {}, left = {}}
  for i, m in ipairs(whose) do
    local flags, at = hits[2 * i - 1], math.min(hits[2 * i], now)
    local last = seen[m]
    outcome.newest = math.max(outcome.newest, at)
    if flags % 2 == BYE then
      if online[m] and online[m] <= at - BYE_MS then
        online[m], outcome.left[m] = false, true
      end
    elseif not last and (flags >= KNOWN_ONLY or room <= 0) then
      table.insert(reply[3], cursor + i - 1)
      reply[5] = reply[5] + (flags >= KNOWN_ONLY and 0 or 1)
    else
      if not last then
        table.insert(reply[2], cursor + i - 1)
        room = room - 1
      end
      if not last or at - last >= timeout then
        outcome.visits = outcome.visits + 1
      end
      seen[m] = math.max(last or at, at)
      online[m] = math.max(online[m] or at, at)
      outcome.counted[m], outcome.left[m] = true, nil
    end
  end
  return outcome
end

-- The scores of members as numbers; a member of which there is none has false. `missing` of them.
local function scores_of(key, members)
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

local function has_bye(hits)
  for i = 1, #hits, 2 do
    if hits[i] % 2 == BYE then
      return true
    end
  end
  return false
end

-- Writes scores of the chosen members; none becomes smaller.
local function raise_scores(key, members, scores, chosen)
  local flat = {}
  for m in pairs(chosen) do
    if scores[m] then
      flat[#flat + 1] = scores[m]
      flat[#flat + 1] = members[m]
    end
  end
  if #flat > 0 then
    redis.call('ZADD', key, 'GT', unpack(flat))
  end
end

-- Once a minute the sets lose whom no hit needs any more, and get a new life: they expire when
-- nobody comes. A set that is empty now is a new one at the next hit, and gets its life there.
local function trim(site, newest, left)
  local base, timeout, window = site.base, site.timeout, site.window
  local due = newest - tonumber(site.total.trimmed or 0) >= TRIM_MS
  if due then
    redis.call('ZREMRANGEBYSCORE', base .. 'seen', '-inf', newest - timeout - LATE_MS)
    redis.call('ZREMRANGEBYSCORE', base .. 'online', '-inf', newest - window)
    redis.call('PEXPIRE', base .. 'seen', timeout + LATE_MS)
    redis.call('PEXPIRE', base .. 'online', window + LATE_MS)
    set(site, 'trimmed', newest)
  end
  if (due or next(left)) and redis.call('EXISTS', base .. 'online') == 0 then
    set(site, 'trimmed', 0)
  end
end

-- Brings the sets of those online and of open visits up to date with a section's hits.
-- Answers how many visits began and who is to be added to the sketches.
local function attend(site, hits, ids, cursor, now, reply)
  local base = site.base
  local members, whose = visitors_of(hits, ids, cursor)
  local seen, unseen = scores_of(base .. 'seen', members)
  local online = has_bye(hits) and scores_of(base .. 'online', members) or {}
  local room = unseen > 0 and MAX_IDS - redis.call('ZCARD', base .. 'seen') or 0
  local outcome = play(hits, whose, seen, online, site.timeout, room, cursor, now, reply)

  -- Of what is written first the key was not read before: of a wrong type, it stops all of it here.
  raise_scores(base .. 'online', members, online, outcome.counted)
  raise_scores(base .. 'seen', members, seen, outcome.counted)
  for m in pairs(outcome.left) do
    redis.call('ZREM', base .. 'online', members[m])
  end
  trim(site, outcome.newest, outcome.left)
  local visitors = {}
  for m in pairs(outcome.counted) do
    visitors[#visitors + 1] = members[m]
  end
  return outcome.visits, visitors
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
local function settle(site, kind)
  local label, p, v = unpack(period_of(site, kind))
  local hash, field = place(kind, label)
  redis.call('HSET', site.base .. hash, field .. 'p', whole(p), field .. 'v', whole(v))
end

-- The pageviews, visits and visitors of a period that does not run.
local function ended_numbers(base, kind, label)
  local hash, field = place(kind, label)
  local found = redis.call('HMGET', base .. hash, field .. 'p', field .. 'v', field .. 'u')
  return tonumber(found[1] or 0), tonumber(found[2] or 0),
    tonumber(found[3] or redis.call('PFCOUNT', sketch_of(base, kind, label)))
end

-- The first hit of a newer label ends the running period of that kind.
local function turn_periods(site, labels, now)
  local base = site.base
  for k, kind in ipairs(KINDS) do
    local label, running = labels[k], period_of(site, kind)
    if not running or label > running[1] then
      if running then
        settle(site, kind)
        freeze(base, kind, running[1], now)
      end
      begin_period(site, kind, label, ended_numbers(base, kind, label))
      remember(base, (place(kind, label)))
      remember(base, 'visitors:' .. kind .. ':' .. label)
      if kind == 'day' then
        set(site, 'began', labels[2])
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
local function add_to_sketch(sketch, period, visitors)
  if redis.call('PFADD', sketch, unpack(visitors)) == 0 then
    return false
  end
  period.changed = true
  period[5] = period[5] + #visitors
  if period[5] * SEVERAL >= period[4] then
    period[4], period[5] = math.max(period[4], redis.call('PFCOUNT', sketch)), 0
  end
  return true
end

-- Whoever changes nothing in the day's sketch is in the longer periods' sketches already, since
-- every visitor of the day was added to all of them: to those of the labels the day began with.
local function add_visitors(site, labels, visitors, now)
  local base = site.base
  for k, kind in ipairs(KINDS) do
    local period = period_of(site, kind)
    if labels[k] < period[1] then
      add_late_visitors(base, kind, labels[k], visitors, now)
    else
      local changed = add_to_sketch(sketch_of(base, kind, labels[k]), period, visitors)
      if k == 1 and not changed and labels[2] == site.total.began then
        return
      end
    end
  end
  add_to_sketch(base .. 'visitors:total', period_of(site, 'total'), visitors)
end

-- Has the numbers of the period before the running one read anew.
local function forget_previous(site, kind)
  if period_of(site, kind .. '-') then
    site.periods[kind .. '-'] = nil
    set(site, kind .. '-', '')
  end
end

local function add_late_numbers(site, kind, label, pageviews, visits)
  local hash, field = place(kind, label)
  if pageviews > 0 then
    redis.call('HINCRBY', site.base .. hash, field .. 'p', pageviews)
  end
  if visits > 0 then
    redis.call('HINCRBY', site.base .. hash, field .. 'v', visits)
  end
  remember(site.base, hash)
  forget_previous(site, kind)
end

local function raise(period, pageviews, visits)
  period[2], period[3], period.changed = period[2] + pageviews, period[3] + visits, true
end

local function add_numbers(site, labels, pageviews, visits)
  for k, kind in ipairs(KINDS) do
    local period = period_of(site, kind)
    if labels[k] < period[1] then
      add_late_numbers(site, kind, labels[k], pageviews, visits)
    else
      raise(period, pageviews, visits)
    end
  end
  raise(period_of(site, 'total') or begin_period(site, 'total', '-', 0, 0, 0), pageviews, visits)
end

local function add_pages(base, pages, max_pages)
  local paths, flat, others, room = {}, {}, 0, nil
  for path in pairs(pages) do
    paths[#paths + 1] = path
  end
  if #paths == 0 then
    return
  end
  local key = base .. 'pages'
  local known = redis.call('ZMSCORE', key, unpack(paths))
  for i, path in ipairs(paths) do
    if not known[i] then
      room = (room or max_pages - redis.call('ZCARD', key)) - 1
    end
    if known[i] or room >= 0 then
      flat[#flat + 1] = (tonumber(known[i] or 0)) + pages[path]
      flat[#flat + 1] = path
    else
      others = others + pages[path]
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
  for reason, hits in pairs(drops) do
    redis.call('HINCRBY', base .. name, string.sub(day, 9) .. ':' .. reason, hits)
  end
  if next(drops) then
    redis.call('PEXPIRE', base .. name, DROPS_MS)
    remember(base, name, now + DROPS_MS)
  end
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

-- Looks at every key that counting a section and reading the counts touches.
local function probe_section(site, labels)
  local base, view = site.base, site.view
  for _, name in ipairs({'online', 'seen', 'pages', 'index'}) do
    expect(base .. name, 'zset')
  end
  for k, kind in ipairs(KINDS) do
    expect_period(base, kind, labels[k])
    if period_of(site, kind) then
      expect_period(base, kind, period_of(site, kind)[1])
    end
  end
  expect_period(base, 'day', view[2])
  expect_period(base, 'week', view[4])
  expect_period(base, 'month', view[5])
  expect_sketch(base .. 'visitors:total')
  expect(base .. 'drops:' .. string.sub(labels[1], 1, 7), 'hash')
end

-- Counts what a batch holds of one site and one day.
local function count_section(site, section, ids, cursor, now, reply)
  local visits, visitors = 0, {}
  if #section.hits > 0 then
    visits, visitors = attend(site, section.hits, ids, cursor, now, reply)
  end
  if section.pageviews > 0 or #visitors > 0 then
    turn_periods(site, section.labels, now)
    add_numbers(site, section.labels, section.pageviews, visits)
    add_pages(site.base, section.pages, site.max_pages)
    if #visitors > 0 then
      add_visitors(site, section.labels, visitors, now)
    end
    local last = math.min(section.newest, now)
    if last > tonumber(site.total.last or 0) then
      set(site, 'last', last)
    end
  end
  add_drops(site.base, section.labels[1], section.drops, now)
end

------------------------------------------------------------------------------------------- reading

local function online_now(base, window, now)
  return redis.call('ZCOUNT', base .. 'online', '(' .. (now - window), '+inf')
end

-- A period's pageviews, visits and visitors.
local function numbers_of(site, kind, label)
  local running = period_of(site, kind)
  if running and running[1] == label then
    return running[2], running[3], running[4]
  elseif kind == 'total' then
    return 0, 0, 0
  end
  local before = period_of(site, kind .. '-')
  if before and before[1] == label then
    return before[2], before[3], before[4]
  end
  return ended_numbers(site.base, kind, label)
end

-- The previous periods seldom change: while counting they are kept where the running ones are.
local function keep_previous(site)
  for kind, label in pairs({day = site.view[2], week = site.view[4], month = site.view[5]}) do
    local before, running = period_of(site, kind .. '-'), period_of(site, kind)
    local runs = running and running[1] == label -- what another worker still counts into
    if not runs and (not before or before[1] ~= label) then
      begin_period(site, kind .. '-', label, numbers_of(site, kind, label))
    end
  end
end

local NAMES = {p = 'pageviews', v = 'visits', u = 'visitors'}

local COUNTED = {'since', 'last', 'peak', 'peak_at'}

-- Adds what an admin added to the numbers of the asked periods, and tells of it.
local function add_seeds(total, asked, counts)
  for n, period in ipairs(asked) do
    for m, metric in ipairs(METRICS) do
      local place_of = 3 * n - 2 + m
      local seed = tonumber(total['seed:' .. period[2] .. ':' .. period[3] .. ':' .. metric] or 0)
      counts[place_of] = math.max(0, counts[place_of] + seed)
      if seed ~= 0 then
        table.insert(counts[30], {period[1], NAMES[metric], seed})
      end
    end
  end
end

-- `view` names the periods as of now: {today, yesterday, week, last week, last month}.
-- Answers {online, pageviews, visits and visitors of each period with what an admin added and never
-- below 0, since, last hit, peak, its instant, seeds, pageviews of the paths}.
local function counts_of(site, view, online, paths)
  local total, month, year = site.total, string.sub(view[1], 1, 7), string.sub(view[1], 1, 4)
  local counts = {online}
  local function add(kind, label)
    counts[#counts + 1], counts[#counts + 2], counts[#counts + 3] = numbers_of(site, kind, label)
  end
  add('day', view[1])
  add('day', view[2])
  add('week', view[3])
  add('week', view[4])
  add('month', month)
  add('month', view[5])
  add('year', year)
  add('total', '-')
  for i = 1, 4 do
    counts[25 + i] = tonumber(total[COUNTED[i]] or 0)
  end
  counts[30] = {}
  if total.seeded then
    add_seeds(total, {
      {'today', 'day', view[1]}, {'yesterday', 'day', view[2]},
      {'week', 'week', view[3]}, {'last_week', 'week', view[4]},
      {'month', 'month', month}, {'last_month', 'month', view[5]},
      {'year', 'year', year}, {'total', 'total', ''},
    }, counts)
  end
  counts[31] = {}
  for i, path in ipairs(paths) do
    counts[31][i] = tonumber(redis.call('ZSCORE', site.base .. 'pages', path) or 0)
  end
  return counts
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

local function merge_total(theirs, ours)
  local from, into, total, other = theirs.base, ours.base, ours.total, theirs.total
  redis.call('PFMERGE', into .. 'visitors:total', from .. 'visitors:total')
  local _, p, v = unpack(period_of(theirs, 'total') or {'-', 0, 0})
  local _, more_p, more_v = unpack(period_of(ours, 'total') or {'-', 0, 0})
  begin_period(ours, 'total', '-', p + more_p, v + more_v,
    redis.call('PFCOUNT', into .. 'visitors:total'))
  set(ours, 'since', math.min(tonumber(other.since), tonumber(total.since)))
  set(ours, 'last', math.max(tonumber(other.last or 0), tonumber(total.last or 0)))
  for field, value in pairs(other) do
    if string.sub(field, 1, 5) == 'seed:' then
      set(ours, field, whole(tonumber(total[field] or 0) + tonumber(value)))
      set(ours, 'seeded', 1)
    end
  end
  if tonumber(other.peak or 0) > tonumber(total.peak or 0) then
    set(ours, 'peak', other.peak)
    set(ours, 'peak_at', other.peak_at)
  end
end

-- Of both generations' running periods the newer one runs on; the older one is frozen.
local function merge_running(theirs, ours, now)
  local their_day, our_day = period_of(theirs, 'day'), period_of(ours, 'day')
  if their_day and our_day and their_day[1] == our_day[1] then
    if theirs.total.began ~= ours.total.began then
      set(ours, 'began', '')
    end
  elseif their_day and (not our_day or their_day[1] > our_day[1]) then
    set(ours, 'began', theirs.total.began)
  end
  for _, kind in ipairs(KINDS) do
    local older, newer = period_of(theirs, kind), period_of(ours, kind)
    if older and newer and older[1] ~= newer[1] then
      if older[1] > newer[1] then
        older, newer = newer, older
      end
      freeze(ours.base, kind, older[1], now)
    end
    local running = newer or older
    if running then
      begin_period(ours, kind, running[1], ended_numbers(ours.base, kind, running[1]))
      remember(ours.base, 'visitors:' .. kind .. ':' .. running[1])
    end
    forget_previous(ours, kind)
  end
end

local function settle_all(site)
  for _, kind in ipairs(KINDS) do
    if period_of(site, kind) then
      settle(site, kind)
    end
  end
end

-- Adds all that one generation counted to another. Answers how many sums are approximate.
local function merge(from, into, now)
  local theirs, ours = load_total({base = from}), load_total({base = into})
  settle_all(theirs)
  settle_all(ours)
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
    local one, other = period_of(ours, kind), period_of(theirs, kind)
    if one and label < one[1] or other and label < other[1] then
      freeze(into, kind, label, now)
    end
  end
  merge_set(from, into, 'online', keep_later)
  merge_set(from, into, 'seen', keep_later)
  merge_set(from, into, 'pages', add_score)
  merge_total(theirs, ours)
  merge_running(theirs, ours, now)
  save_total(ours)
  forget(from)
  return approximate
end

----------------------------------------------------------------------------------------- functions

local function site_named(packed)
  return {
    id = packed[1], generation = packed[2], window = packed[3], timeout = packed[4],
    max_pages = packed[5], view = packed[6], paths = packed[7], sections = packed[8],
  }
end

-- A section's hits are a flat list: flags, instant, flags, instant ...
local function section_named(packed)
  return {
    labels = labels_of(packed[1], packed[2]), pageviews = packed[3], pages = packed[4],
    drops = packed[5], hits = packed[6], newest = packed[7],
  }
end

-- The batch's sites by name, and its newest hit; raises an error for what we did not pack.
local function unpack_batch(packed, ids)
  local sites, newest, hits = {}, 0, 0
  for n, packed_site in ipairs(cmsgpack.unpack(packed)) do
    local site = site_named(packed_site)
    for s, packed_section in ipairs(site.sections) do
      local section = section_named(packed_section)
      site.sections[s] = section
      newest, hits = math.max(newest, section.newest), hits + #section.hits / 2
    end
    sites[n] = site
  end
  assert(#ids == hits * 8, 'ids do not match the hits')
  return sites, newest
end

-- redis.call raises tables, Lua raises strings.
local function reason_of(problem)
  return type(problem) == 'table' and tostring(problem.err) or tostring(problem)
end

-- Finds out what a site's part of a batch counts into.
local function find_site(tag, site)
  site.counted, site.current = generations_of(tag, site.id, site.generation)
  site.base = base_of(tag, site.id, site.counted)
  load_total(site)
end

-- What a day's first hit makes is probed before the first write, and everything is for a while
-- after a batch was rejected: a key of a wrong type stops a batch whole.
local function probe_site(site, suspicious)
  for _, section in ipairs(site.sections) do
    if suspicious or section.labels[1] ~= (period_of(site, 'day') or {})[1] then
      probe_section(site, section.labels)
    end
  end
end

-- The counts of a generation that nothing is counted into.
local function counts_at(base, asked, now)
  local online = online_now(base, asked.window, now)
  return counts_of(load_total({base = base}), asked.view, online, asked.paths)
end

-- Counts one site's part of a batch; answers the site's counts. `reply.cursor` is how many hits of
-- the batch came before.
local function count_site(tag, site, ids, now, reply)
  for _, section in ipairs(site.sections) do
    count_section(site, section, ids, reply.cursor, now, reply)
    reply.cursor = reply.cursor + #section.hits / 2
  end
  local online = online_now(site.base, site.window, now)
  if online > tonumber(site.total.peak or 0) then
    set(site, 'peak', online)
    set(site, 'peak_at', now)
  end
  keep_previous(site)
  save_total(site)
  if site.counted == site.current then
    return counts_of(site, site.view, online, site.paths)
  end
  return counts_at(base_of(tag, site.id, site.current), site, now)
end

-- What a batch that comes again is answered with.
local function counts_now(tag, site, now)
  return counts_at(current_base(tag, site.id) or base_of(tag, site.id, site.generation), site, now)
end

-- record(tag; producer, epoch, seq, sites, ids) counts one batch, all or nothing, and only once: a
-- producer numbers its batches of a partition 1, 2, 3 ... and the ledger, written in the same unit
-- as the counts, knows the last. A batch that comes again (DUP) only reads.
-- sites: msgpack, see site_named; ids: the visitors of all hits of all sections, in their order.
-- Answers msgpack {now, new visitors, held hits (both as places in ids, from 0), counts per site,
-- hits held because a site's sets are full, 1 for DUP}.
local function record(keys, args)
  local tag, producer, ids, now = keys[1], args[1], args[5], store_time()
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

  local reply = {now, {}, {}, {}, 0, again and 1 or 0, cursor = 0}
  local well, problem = pcall(function()
    local sites, newest = unpack_batch(args[4], ids)
    if again then
      write_ledger(tag, producer, epoch, last, rejected, now) -- so that a WAIT behind it counts
      for n, site in ipairs(sites) do
        reply[4][n] = counts_now(tag, site, now)
      end
      return
    elseif newest > now + AHEAD_MS then
      return 'EARLY ' .. whole(now) .. ' ' .. whole(newest - AHEAD_MS)
    end
    for _, site in ipairs(sites) do
      find_site(tag, site)
      probe_site(site, rejected ~= '')
    end
    write_ledger(tag, producer, epoch, seq, rejected, now)
    for n, site in ipairs(sites) do
      reply[4][n] = count_site(tag, site, ids, now, reply)
    end
  end)
  if not well then
    if not again then
      write_ledger(tag, producer, epoch, seq, rejected .. ':' .. whole(seq), now)
    end
    return redis.error_reply('REJECTED ' .. reason_of(problem))
  elseif problem then
    return redis.error_reply(problem)
  end
  reply.cursor = nil
  return cmsgpack.pack(reply)
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

-- counts(tag; msgpack {site, online_window, view, paths}) answers msgpack {now, counts}.
local function counts(keys, args)
  local asked = cmsgpack.unpack(args[1])
  local base, now = current_base(keys[1], asked[1]), store_time()
  if not base then
    return redis.error_reply('NOSITE no such site')
  end
  asked = {window = asked[2], view = asked[3], paths = asked[4]}
  return cmsgpack.pack({now, counts_at(base, asked, now)})
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
    redis.call('HSET', base_of(tag, site, 1) .. 'total', 'since', now)
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
  redis.call('HSET', base_of(tag, site, generation) .. 'total', 'since', now)
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
    local field = 'seed:' .. args[i] .. ':' .. args[i + 1] .. ':' .. args[3]
    redis.call('HINCRBY', base .. 'total', field, args[i + 2])
  end
  redis.call('HSET', base .. 'total', 'seeded', 1)
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
  redis.call('ZADD', zset, 'GT', 1, 'a')
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
  for _, key in ipairs({zset, other, hash, sketch}) do
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
