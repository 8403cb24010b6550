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
--   day:2026-11               hash  22p 22v 22u -> pageviews, visits, frozen visitors of a day;
--                                   22a: those visitors are an approximate sum
--   week:2026                 hash  11-16p ...     of the week that begins on that day
--   month:2026, year          hash  11p ..., 2026p ...
--   total                     hash  p v; since, last, peak, peak_at; day week month year: newest
--                                   label of each; began: the week that day was started with;
--                                   seed:<kind>:<label>:<p|v|u>; seeded: there are seeds
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
local KINDS = {'day', 'week', 'month', 'year'}
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

-- Hits count into the generation they were accepted under, but for one that was undone.
local function generations_of(tag, site, accepted)
  local found = redis.call('HMGET', tag .. ':generations', site, site .. ':' .. accepted)
  local current = found[1] or accepted
  return found[2] and current or accepted, current
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

-- Sets fields of `total`, in the store and in the copy that this call works with.
local function set_total(base, total, changes)
  local flat = {}
  for field, value in pairs(changes) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
    total[field] = value
  end
  if #flat > 0 then
    redis.call('HSET', base .. 'total', unpack(flat))
  end
end

local function whole(number)
  return string.format('%.0f', number)
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
    outcome.newest = math.max(outcome.newest, at)
    if flags % 2 == BYE then
      if online[m] and online[m] <= at - BYE_MS then
        online[m], outcome.left[m] = false, true
      end
    elseif not seen[m] and (flags >= KNOWN_ONLY or room <= 0) then
      table.insert(reply[3], cursor + i - 1)
      reply[5] = reply[5] + (flags >= KNOWN_ONLY and 0 or 1)
    else
      if not seen[m] then
        table.insert(reply[2], cursor + i - 1)
        room = room - 1
      end
      if not seen[m] or at - seen[m] >= timeout then
        outcome.visits = outcome.visits + 1
      end
      seen[m] = math.max(seen[m] or at, at)
      online[m] = math.max(online[m] or at, at)
      outcome.counted[m], outcome.left[m] = true, nil
    end
  end
  return outcome
end

-- Writes scores of the chosen members to a set that expires when nobody comes any more.
local function keep_scores(key, members, scores, chosen, life)
  local flat = {}
  for m in pairs(chosen) do
    if scores[m] then
      flat[#flat + 1] = scores[m]
      flat[#flat + 1] = members[m]
    end
  end
  if #flat > 0 then
    redis.call('ZADD', key, unpack(flat))
    redis.call('PEXPIRE', key, life)
  end
end

-- Brings the sets of those online and of open visits up to date with a section's hits.
-- Answers how many visits began and who is to be added to the sketches.
local function attend(base, site, hits, ids, cursor, now, reply)
  local window, timeout = site.window, site.timeout
  local members, whose = visitors_of(hits, ids, cursor)
  local seen = redis.call('ZMSCORE', base .. 'seen', unpack(members))
  local online = redis.call('ZMSCORE', base .. 'online', unpack(members))
  for m = 1, #members do
    seen[m], online[m] = seen[m] and tonumber(seen[m]), online[m] and tonumber(online[m])
  end
  local room = MAX_IDS - redis.call('ZCARD', base .. 'seen')
  local outcome = play(hits, whose, seen, online, timeout, room, cursor, now, reply)

  keep_scores(base .. 'seen', members, seen, outcome.counted, timeout + LATE_MS)
  keep_scores(base .. 'online', members, online, outcome.counted, window + LATE_MS)
  for m in pairs(outcome.left) do
    redis.call('ZREM', base .. 'online', members[m])
  end
  redis.call('ZREMRANGEBYSCORE', base .. 'seen', '-inf', outcome.newest - timeout - LATE_MS)
  redis.call('ZREMRANGEBYSCORE', base .. 'online', '-inf', outcome.newest - window)
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

-- The first hit of a newer label ends the running period of that kind.
local function turn_periods(base, total, labels, now)
  local changes = {}
  for k, kind in ipairs(KINDS) do
    local label, running = labels[k], total[kind]
    if not running or label > running then
      if running then
        freeze(base, kind, running, now)
      end
      changes[kind] = label
      remember(base, (place(kind, label)))
      remember(base, 'visitors:' .. kind .. ':' .. label)
    end
  end
  if changes.day then
    changes.began = labels[2]
    redis.call('ZREMRANGEBYSCORE', base .. 'index', '-inf', now)
  end
  set_total(base, total, changes)
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

-- Whoever changes nothing in the day's sketch is in the longer periods' sketches already, since
-- every visitor of the day was added to all of them: to those of the labels the day began with.
local function add_visitors(base, total, labels, visitors, now)
  local todays = labels[1] == total.day
  if todays and redis.call('PFADD', sketch_of(base, 'day', labels[1]), unpack(visitors)) == 0
      and labels[2] == total.began then
    return
  end
  for k, kind in ipairs(KINDS) do
    if labels[k] < total[kind] then
      add_late_visitors(base, kind, labels[k], visitors, now)
    elseif k > 1 then
      redis.call('PFADD', sketch_of(base, kind, labels[k]), unpack(visitors))
    end
  end
  redis.call('PFADD', base .. 'visitors:total', unpack(visitors))
end

local function add_numbers(base, total, labels, pageviews, visits)
  for k, kind in ipairs(KINDS) do
    local hash, field = place(kind, labels[k])
    if pageviews > 0 then
      redis.call('HINCRBY', base .. hash, field .. 'p', pageviews)
    end
    if visits > 0 then
      redis.call('HINCRBY', base .. hash, field .. 'v', visits)
    end
    if labels[k] < total[kind] then
      remember(base, hash)
    end
  end
  total.p = redis.call('HINCRBY', base .. 'total', 'p', pageviews)
  total.v = redis.call('HINCRBY', base .. 'total', 'v', visits)
end

local function add_pages(base, pages, max_pages)
  local paths, others = {}, 0
  for path in pairs(pages) do
    paths[#paths + 1] = path
  end
  if #paths == 0 then
    return
  end
  local known = redis.call('ZMSCORE', base .. 'pages', unpack(paths))
  local room = max_pages - redis.call('ZCARD', base .. 'pages')
  for i, path in ipairs(paths) do
    if known[i] or room > 0 then
      redis.call('ZINCRBY', base .. 'pages', pages[path], path)
      room = known[i] and room or room - 1
    else
      others = others + pages[path]
    end
  end
  if others > 0 then
    redis.call('ZINCRBY', base .. 'pages', others, OTHER)
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
local function probe_section(base, total, labels, view)
  for _, name in ipairs({'online', 'seen', 'pages', 'index'}) do
    expect(base .. name, 'zset')
  end
  for k, kind in ipairs(KINDS) do
    expect_period(base, kind, labels[k])
    if total[kind] then
      expect_period(base, kind, total[kind])
    end
  end
  expect_period(base, 'day', view[2])
  expect_period(base, 'week', view[4])
  expect_period(base, 'month', view[5])
  expect_sketch(base .. 'visitors:total')
  expect(base .. 'drops:' .. string.sub(labels[1], 1, 7), 'hash')
end

-- Counts what a batch holds of one site and one day.
local function count_section(base, total, site, section, ids, cursor, now, reply)
  local visits, visitors = 0, {}
  if #section.hits > 0 then
    visits, visitors = attend(base, site, section.hits, ids, cursor, now, reply)
  end
  if section.pageviews > 0 or #visitors > 0 then
    turn_periods(base, total, section.labels, now)
    add_numbers(base, total, section.labels, section.pageviews, visits)
    add_pages(base, section.pages, site.max_pages)
    if #visitors > 0 then
      add_visitors(base, total, section.labels, visitors, now)
    end
    local last = math.min(section.newest, now)
    if last > tonumber(total.last or 0) then
      set_total(base, total, {last = last})
    end
  end
  add_drops(base, section.labels[1], section.drops, now)
end

------------------------------------------------------------------------------------------- reading

local function online_now(base, window, now)
  return redis.call('ZCOUNT', base .. 'online', '(' .. (now - window), '+inf')
end

local function raise_peak(base, total, window, now)
  local online = online_now(base, window, now)
  if online > tonumber(total.peak or 0) then
    set_total(base, total, {peak = online, peak_at = now})
  end
end

-- A period's {pageviews, visits, visitors} with what an admin added; never below 0.
local function numbers_of(base, total, kind, label)
  local numbers
  if kind == 'total' then
    numbers = {total.p, total.v, redis.call('PFCOUNT', base .. 'visitors:total')}
  else
    local hash, field = place(kind, label)
    numbers = redis.call('HMGET', base .. hash, field .. 'p', field .. 'v', field .. 'u')
    numbers[3] = numbers[3] or redis.call('PFCOUNT', sketch_of(base, kind, label))
  end
  for i, metric in ipairs(METRICS) do
    local seed = total.seeded and total['seed:' .. kind .. ':' .. label .. ':' .. metric]
    numbers[i] = math.max(0, tonumber(numbers[i] or 0) + tonumber(seed or 0))
  end
  return numbers
end

local NAMES = {p = 'pageviews', v = 'visits', u = 'visitors'}

local function seeds_of(total, asked)
  local seeds = {}
  for _, period in ipairs(total.seeded and asked or {}) do
    for _, metric in ipairs(METRICS) do
      local seed = tonumber(total['seed:' .. period[2] .. ':' .. period[3] .. ':' .. metric] or 0)
      if seed ~= 0 then
        seeds[#seeds + 1] = {period[1], NAMES[metric], seed}
      end
    end
  end
  return seeds
end

-- `view` names the periods as of now: {today, yesterday, week, last week, last month}.
local function counts_of(base, total, view, window, paths, now)
  local month, year = string.sub(view[1], 1, 7), string.sub(view[1], 1, 4)
  local asked = {
    {'today', 'day', view[1]}, {'yesterday', 'day', view[2]},
    {'week', 'week', view[3]}, {'last_week', 'week', view[4]},
    {'month', 'month', month}, {'last_month', 'month', view[5]},
    {'year', 'year', year}, {'total', 'total', ''},
  }
  local counts = {online_now(base, window, now)}
  for i, period in ipairs(asked) do
    counts[i + 1] = numbers_of(base, total, period[2], period[3])
  end
  for _, field in ipairs({'since', 'last', 'peak', 'peak_at'}) do
    counts[#counts + 1] = tonumber(total[field] or 0)
  end
  counts[#counts + 1] = seeds_of(total, asked)
  local pages = {}
  for i, path in ipairs(paths) do
    pages[i] = tonumber(redis.call('ZSCORE', base .. 'pages', path) or 0)
  end
  counts[#counts + 1] = pages
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

local function merge_total(from, into, theirs, ours)
  for field, value in pairs(theirs) do
    if field == 'p' or field == 'v' or string.sub(field, 1, 5) == 'seed:' then
      redis.call('HINCRBY', into .. 'total', field, value)
    end
  end
  local changes = {seeded = theirs.seeded}
  changes.since = math.min(tonumber(theirs.since), tonumber(ours.since))
  changes.last = math.max(tonumber(theirs.last or 0), tonumber(ours.last or 0))
  if tonumber(theirs.peak or 0) > tonumber(ours.peak or 0) then
    changes.peak, changes.peak_at = theirs.peak, theirs.peak_at
  end
  set_total(into, ours, changes)
  redis.call('PFMERGE', into .. 'visitors:total', from .. 'visitors:total')
end

-- Of both generations' running periods the newer one runs on; the older one is frozen.
local function merge_running(into, theirs, ours, now)
  if theirs.day and theirs.day == ours.day and theirs.began ~= ours.began then
    set_total(into, ours, {began = ''})
  elseif theirs.day and theirs.day > (ours.day or '') then
    set_total(into, ours, {began = theirs.began})
  end
  for _, kind in ipairs(KINDS) do
    local older, newer = theirs[kind], ours[kind] or theirs[kind]
    if older and older > newer then
      older, newer = newer, older
    end
    if older and older < newer then
      freeze(into, kind, older, now)
    end
    if newer then
      set_total(into, ours, {[kind] = newer})
    end
  end
end

-- Adds all that one generation counted to another. Answers how many sums are approximate.
local function merge(from, into, now)
  local theirs, ours = read_hash(from .. 'total'), read_hash(into .. 'total')
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
    if ours[kind] and label < ours[kind] or theirs[kind] and label < theirs[kind] then
      freeze(into, kind, label, now)
    end
  end
  merge_set(from, into, 'online', keep_later)
  merge_set(from, into, 'seen', keep_later)
  merge_set(from, into, 'pages', add_score)
  merge_total(from, into, theirs, ours)
  merge_running(into, theirs, ours, now)
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
  site.total = read_hash(site.base .. 'total')
end

-- What a day's first hit makes is probed before the first write, and everything is for a while
-- after a batch was rejected: a key of a wrong type stops a batch whole.
local function probe_site(site, suspicious)
  for _, section in ipairs(site.sections) do
    if suspicious or section.labels[1] ~= site.total.day then
      probe_section(site.base, site.total, section.labels, site.view)
    end
  end
end

-- Counts one site's part of a batch; answers the site's counts. `reply.cursor` is how many hits of
-- the batch came before.
local function count_site(tag, site, ids, now, reply)
  local base, total = site.base, site.total
  for _, section in ipairs(site.sections) do
    count_section(base, total, site, section, ids, reply.cursor, now, reply)
    reply.cursor = reply.cursor + #section.hits / 2
  end
  raise_peak(base, total, site.window, now)
  if site.counted ~= site.current then
    base = base_of(tag, site.id, site.current)
    total = read_hash(base .. 'total')
  end
  return counts_of(base, total, site.view, site.window, site.paths, now)
end

-- What a batch that comes again is answered with.
local function counts_now(tag, site, now)
  local base = current_base(tag, site.id) or base_of(tag, site.id, site.generation)
  local total = read_hash(base .. 'total')
  return counts_of(base, total, site.view, site.window, site.paths, now)
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
      return 'EARLY ' .. now
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
  local site, window, view, paths = unpack(cmsgpack.unpack(args[1]))
  local base, now = current_base(keys[1], site), store_time()
  if not base then
    return redis.error_reply('NOSITE no such site')
  end
  local total = read_hash(base .. 'total')
  return cmsgpack.pack({now, counts_of(base, total, view, window, paths, now)})
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
