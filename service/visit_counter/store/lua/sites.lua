-- Sites as admins know them: what they change, and the days that they look at. In this order:
--
--   generations  begin with a reset; how all that one counted is removed
--   operations   what an admin asked for is done once
--   undo         adds all that one generation counted to another
--   functions    sites, put_site, done, reset, undo, seed, drops, days

do

local OPERATION_MS = 30 * DAY_MS
local EXACT = 2 ^ 53 -- up to there doubles are exact, and so are the numbers shown
local METRIC_NUMBERS = {p = 1, v = 2, u = 3}

---------------------------------------------------------------------------------------- generations

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

-- Removes all that a generation counted.
local function forget(base)
  for _, name in ipairs(call('ZRANGE', base .. 'index', 0, -1)) do
    call('UNLINK', base .. name)
  end
  for _, name in ipairs({
    'running', 'seen', 'left', 'pages', 'candidates', 'idle', 'seeds', 'index', 'visitors:total',
  }) do
    call('UNLINK', base .. name)
  end
end

-- The generation of a site that has lost its number: the newest that has counted, else the first.
local function lost_generation(tag, site)
  local newest = 1
  for generation = 2, MAX_RESETS do
    if call('EXISTS', base_of(tag, site, generation) .. 'running') == 1 then
      newest = generation
    end
  end
  return newest
end

-- A site that somebody has damaged, and whose settings are given anew, needs a generation.
local function restore_generation(tag, site, now)
  local current = call('HGET', tag .. ':generations', site)
  if current and is_generation(current) then
    return
  end
  local generation = lost_generation(tag, site)
  call('HSET', tag .. ':generations', site, generation)
  if call('EXISTS', base_of(tag, site, generation) .. 'running') == 0 then
    begin_generation(base_of(tag, site, generation), now)
  end
end

----------------------------------------------------------------------------------------- operations

-- An operation is done once: its id answers for it 30 days long, with what kind it was.
local function done_before(tag, site, operation)
  local done = call('HGET', tag .. ':operations:' .. site, operation)
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
      call('HDEL', key, id)
      if kind == 'reset' then -- nothing can bring that generation back any more
        forget(base_of(tag, site, generation))
      end
    end
  end
  call('HSET', key, operation, what .. ':' .. now)
  call('HINCRBY', tag .. ':sites', '#', 1)
end

----------------------------------------------------------------------------------------------- undo

-- Sketches merge while they live; else the numbers add, and the sum is marked approximate.
-- Answers 1 for an approximate sum.
local function merge_visitors(from, into, kind, label)
  local source, target = sketch_of(from, kind, label), sketch_of(into, kind, label)
  local hash, field = place(kind, label)
  local theirs = call('HGET', from .. hash, field .. 'u')
  local ours = call('HGET', into .. hash, field .. 'u')
  local target_lives = call('EXISTS', target) == 1
  if call('EXISTS', source) == 1 and (target_lives or not ours) then
    call('PFMERGE', target, source)
    remember(into, 'visitors:' .. kind .. ':' .. label)
    return 0
  end
  if not ours and not target_lives then
    call('HSET', into .. hash, field .. 'u', theirs)
    return 0
  end
  local sum = (theirs or call('PFCOUNT', source)) + (ours or call('PFCOUNT', target))
  call('HSET', into .. hash, field .. 'u', sum, field .. 'a', 1)
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
      call('HSET', into .. name, field, value)
    else
      call('HINCRBY', into .. name, field, value)
    end
  end
  remember(into, name)
end

local function merge_drops(from, into, name, now)
  for field, hits in pairs(read_hash(from .. name)) do
    call('HINCRBY', into .. name, field, hits)
  end
  call('PEXPIRE', into .. name, DROPS_MS)
  remember(into, name, now + DROPS_MS)
end

-- The smaller set goes into the larger: after a reset that is little, and the larger one may have
-- a million members.
local function merge_set(from, into, name, add)
  local source, target, few = from .. name, into .. name, from .. name
  if call('EXISTS', source) == 0 then
    return
  end
  local life = max(call('PTTL', source), call('PTTL', target))
  if call('ZCARD', source) > call('ZCARD', target) then
    few = from .. 'few'
    if call('EXISTS', target) == 1 then
      call('RENAME', target, few)
    end
    call('RENAME', source, target)
  end
  local members = call('ZRANGE', few, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    add(target, members[i + 1], members[i])
  end
  call('UNLINK', few)
  if life > 0 then
    call('PEXPIRE', target, life)
  end
end

-- Below 0 is the score of one who has left.
local function keep_later(key, score, member)
  local known = call('ZSCORE', key, member)
  if not known or math.abs(score) > math.abs(known) then
    call('ZADD', key, score, member)
  end
end

local function add_score(key, score, member)
  call('ZINCRBY', key, score, member)
end

local function merge_seeds(from, into, state)
  for field, amount in pairs(read_hash(from .. 'seeds')) do
    call('HINCRBY', into .. 'seeds', field, amount)
    state[SEEDED] = 1
  end
end

local function merge_left(from, into, state)
  merge_set(from, into, 'left', keep_later)
  state[LEFT] = call('EXISTS', into .. 'left')
end

local function merge_total(from, into, theirs, ours)
  local i = NUMBERS[TOTAL]
  call('PFMERGE', into .. 'visitors:total', from .. 'visitors:total')
  raise(ours, TOTAL, theirs[i], theirs[i + 1])
  ours[i + 2] = call('PFCOUNT', into .. 'visitors:total')
  ours[CHANGED] = set_bit(ours[CHANGED], TOTAL, false)
  ours[SINCE] = min(ours[SINCE], theirs[SINCE])
  ours[LAST] = max(ours[LAST], theirs[LAST])
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
  ours[SKETCHED] = max(now, theirs[SKETCHED], ours[SKETCHED])
  for n = DAY, YEAR, 2 do
    local older, newer = theirs[n], ours[n]
    if older > newer then
      older, newer = newer, older
    end
    if older ~= newer and older ~= NEVER[n] then
      freeze(into, KINDS[n], older, now)
    end
    if newer ~= NEVER[n] then
      set_period(ours, n, newer, ended_numbers(into, KINDS[n], newer))
      remember(into, 'visitors:' .. KINDS[n] .. ':' .. newer)
    end
    forget_previous(ours, n)
  end
end

local function settle_all(base, state)
  for n = DAY, YEAR, 2 do
    if state[n] ~= NEVER[n] then
      settle(base, state, n)
    end
  end
end

local RUNNING = {day = DAY, week = WEEK, month = MONTH, year = YEAR}

-- Adds all that one generation counted to another. Answers how many sums are approximate.
local function merge(from, into, now)
  local theirs, ours = load_state(from), load_state(into)
  settle_all(from, theirs)
  settle_all(into, ours)
  local names, labels, approximate = call('ZRANGE', from .. 'index', 0, -1), {}, 0
  for _, name in ipairs(names) do
    local kind, label = string.match(name, '^visitors:(%a+):(.*)$')
    if kind then
      if call('EXISTS', from .. name) == 1 then
        labels[kind .. ' ' .. label] = true
      end
    elseif sub(name, 1, 6) == 'drops:' then
      merge_drops(from, into, name, now)
    else
      merge_numbers(from, into, name, labels)
    end
  end
  for period in pairs(labels) do
    local kind, label = string.match(period, '^(%a+) (.*)$')
    approximate = approximate + merge_visitors(from, into, kind, label)
    local n = RUNNING[kind]
    if label < ours[n] or label < theirs[n] then
      freeze(into, kind, label, now)
    end
  end
  merge_set(from, into, 'seen', keep_later)
  merge_set(from, into, 'pages', add_score)
  merge_candidates(from, into)
  merge_left(from, into, ours)
  merge_seeds(from, into, ours)
  merge_total(from, into, theirs, ours)
  merge_running(into, theirs, ours, now)
  save_state(into, ours)
  forget(from)
  return approximate
end

-- The generation that a reset moved away and that is the newest still away; else why not.
local function moved_generation(tag, site, operation)
  local entry = call('HGET', tag .. ':operations:' .. site, operation)
  local moved = tonumber(entry and string.match(entry, '^reset:(%d+):') or nil)
  if not moved then
    return nil, 'NOOPERATION no such reset in the last 30 days'
  end
  local current = tonumber(call('HGET', tag .. ':generations', site))
  for later = moved + 1, current - 1 do
    if call('HEXISTS', tag .. ':generations', site .. ':' .. later) == 0 then
      return nil, 'NEWER a newer reset must be undone first'
    end
  end
  return moved, current
end

------------------------------------------------------------------------------------------ functions

-- sites(tag; version) answers nothing if that is the version, else {version, site -> settings,
-- site -> generation}, both as flat lists.
local function sites(keys, args)
  local version = call('HGET', keys[1] .. ':sites', '#') or '0'
  if version == args[1] then
    return false
  end
  return {version, call('HGETALL', keys[1] .. ':sites'),
    call('HGETALL', keys[1] .. ':generations')}
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
  local found, now = call('HGET', tag .. ':sites', site), store_time()
  if before == '' and found and found ~= '' then
    return redis.error_reply('EXISTS there is such a site')
  elseif before ~= '' and found ~= before then
    return redis.error_reply('CHANGED the site was changed meanwhile')
  end
  if not found then
    call('HSET', tag .. ':generations', site, 1)
    begin_generation(base_of(tag, site, 1), now)
  else
    restore_generation(tag, site, now)
  end
  call('HSET', tag .. ':sites', site, settings)
  call('HINCRBY', tag .. ':sites', '#', 1)
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
  local generation = call('HINCRBY', tag .. ':generations', site, 1)
  set_flag(base_of(tag, site, generation - 1), CURRENT, 0)
  begin_generation(base_of(tag, site, generation), now)
  keep_operation(tag, site, operation, 'reset:' .. (generation - 1), now)
  return 1
end

-- undo(tag; site, operation of a reset) adds the moved generation back to the current one.
-- Answers {1 if it was done now, how many visitor numbers are approximate}.
local function undo(keys, args)
  local tag, site, operation, now = keys[1], args[1], args[2], store_time()
  local moved, current = moved_generation(tag, site, operation)
  if not moved then
    return redis.error_reply(current)
  elseif call('HEXISTS', tag .. ':generations', site .. ':' .. moved) == 1 then
    return {0, 0}
  end
  local approximate = merge(base_of(tag, site, moved), base_of(tag, site, current), now)
  call('HSET', tag .. ':generations', site .. ':' .. moved, 'undone')
  call('HINCRBY', tag .. ':sites', '#', 1)
  return {1, approximate}
end

-- What a period of the current generation counted, whether it runs or has ended.
local function counted_in(base, state, kind, label, m)
  local n = RUNNING[kind] or TOTAL
  if n == TOTAL or label == state[n] then
    return state[NUMBERS[n] + m - 1]
  end
  return (select(m, ended_numbers(base, kind, label)))
end

-- Why an amount cannot be added to what an admin added before: numbers beyond 2^53 are not exact,
-- and what is shown must not fall below 0. Returns the largest that can be, too.
local function objection(counted, seeded, amount)
  local shown, most = counted + seeded, EXACT - max(seeded, counted + seeded)
  if amount > 0 and amount > most then
    return 'BEYOND', max(0, most)
  elseif amount < 0 and shown + amount < 0 then
    return 'BELOW', max(0, shown)
  end
end

-- seed(tag; site, operation, metric, kind, label, amount ...) adds to periods, to all or none of
-- them. BELOW and BEYOND name the kind of a period and the largest amount that is possible.
local function seed(keys, args)
  local tag, site, operation, metric = keys[1], args[1], args[2], args[3]
  local base, before = current_base(tag, site), done_before(tag, site, operation)
  if before then
    return before == 'seed' and 0 or other_kind(before)
  elseif not base then
    return redis.error_reply('NOSITE no such site')
  end
  local state, seeds, m = load_state(base), read_hash(base .. 'seeds'), METRIC_NUMBERS[metric]
  read_sketches(base, state)
  for i = 4, #args, 3 do
    local kind, label, amount = args[i], args[i + 1], tonumber(args[i + 2])
    local seeded = tonumber(seeds[kind .. ':' .. label .. ':' .. metric] or 0)
    local why, most = objection(counted_in(base, state, kind, label, m), seeded, amount)
    if why then
      return redis.error_reply(why .. ' ' .. kind .. ' ' .. whole(most))
    end
  end
  for i = 4, #args, 3 do
    call('HINCRBY', base .. 'seeds', args[i] .. ':' .. args[i + 1] .. ':' .. metric, args[i + 2])
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
    months[i - 1] = call('HGETALL', base .. 'drops:' .. args[i])
  end
  return months
end

-- days(tag; site, label ...) answers the numbers of each of these days, packed as the counts are:
-- with what an admin added, and never below 0.
local function days(keys, args)
  local base, found, hashes = current_base(keys[1], args[1]), {}, {}
  if not base then
    return redis.error_reply('NOSITE no such site')
  end
  local state, seeds = load_state(base), read_hash(base .. 'seeds')
  read_sketches(base, state)
  for n = 2, #args do
    local name, field = place('day', args[n])
    hashes[name] = hashes[name] or read_hash(base .. name)
    for m, metric in ipairs(METRICS) do
      local counted = args[n] == state[DAY] and state[NUMBERS[DAY] + m - 1]
        or hashes[name][field .. metric] or 0
      local added = seeds['day:' .. args[n] .. ':' .. metric] or 0
      found[#found + 1] = max(0, counted + added)
    end
  end
  return pack('<' .. string.rep('d', #found), unpack_list(found))
end

register('sites', sites, {'no-writes'})
register('put_site', put_site)
register('done', done, {'no-writes'})
register('reset', reset)
register('undo', undo)
register('seed', seed)
register('drops', drops, {'no-writes'})
register('days', days, {'allow-oom'}) -- as counts

end
