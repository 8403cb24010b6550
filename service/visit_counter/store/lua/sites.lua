-- Sites as admins know them: what they change, and the days that they look at. In this order:
--
--   generations  begin with a reset; how all that one counted is removed
--   operations   what an admin asked for is done once
--   functions    sites, put_site, done, reset, seed, drops, top, days

-- For the undo of a reset, in undo.lua.
local forget, is_exact

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
function forget(base)
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

-- What a period of the current generation counted, whether it runs or has ended.
local function counted_in(base, state, kind, label, m)
  for n = DAY, TOTAL do
    if n == TOTAL and kind == 'total' or kind == KINDS[n] and label == state[n] then
      return state[NUMBERS[n] + m - 1]
    end
  end
  return (select(m, ended_numbers(base, kind, label)))
end

function is_exact(number)
  return math.abs(number) <= EXACT
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
-- with what an admin added, and never below 0; and 1 where the visitors are an approximate sum.
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
    local is_sum = hashes[name][field .. 'a'] == '1'
    if args[n] == state[DAY] then
      is_sum = is_set(state[APPROXIMATE], DAY)
    end
    found[#found + 1] = is_sum and 1 or 0
  end
  return pack('<' .. string.rep('d', #found), unpack_list(found))
end

-- top(tag; site, number) answers the paths of so many pages, those with most views first.
local function top(keys, args)
  local base = current_base(keys[1], args[1])
  if not base then
    return redis.error_reply('NOSITE no such site')
  end
  return call('ZRANGE', base .. 'pages', 0, args[2] - 1, 'REV')
end

register('sites', sites, {'no-writes'})
register('put_site', put_site)
register('done', done, {'no-writes'})
register('reset', reset)
register('seed', seed)
register('drops', drops, {'no-writes'})
register('top', top, {'no-writes'})
register('days', days, {'allow-oom'}) -- as counts

end
