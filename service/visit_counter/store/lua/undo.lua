-- The undo of a reset: adds all that one generation counted to another. In this order:
--
--   what comes over  visitors, pages, older numbers: some in one call
--   what is left     recent numbers and sketches, drops, totals: at once
--   function         undo
--
-- An undo takes as many calls as it needs, so that none of them blocks the store. From the first
-- one on, hits accepted under the moved generation count into the current one. A call brings over
-- some of the visitors, then of the pages, then of the older numbers, and the last one all that is
-- left. Whatever has come over is gone from where it was, so it may be repeated from anywhere.

do

local STEP = 500 -- visitors or pages in one call: some milliseconds
local HASHES = 6 -- of numbers
local RUNNING = {day = DAY, week = WEEK, month = MONTH, year = YEAR}

------------------------------------------------------------------------------------ what comes over

-- The later of two scores in `seen`; who left at that instant has left.
local function later_of(score, other)
  if not other or math.abs(score) > math.abs(other) then
    return score
  elseif math.abs(score) == math.abs(other) then
    return min(score, other)
  end
  return other
end

local function scores_of(key, members)
  local scores = {}
  if call('EXISTS', key) == 0 then
    return scores
  end
  scores = call('ZMSCORE', key, unpack_list(members))
  for m = 1, #members do
    scores[m] = tonumber(scores[m] or nil)
  end
  return scores
end

-- When a visitor who was last seen at an instant said bye, if that counts.
local function bye_of(last, theirs, ours, now)
  local bye = min(max(theirs or 0, ours or 0), now)
  return bye >= last + BYE_MS and bye
end

-- Brings over some visitors, those with the latest instants first, but none whom no hit needs any
-- more. Returns whether there may be others.
local function carry_visitors(from, into, theirs, state, timeout, now)
  local found = call('ZRANGE', from .. 'seen', -STEP, -1, 'WITHSCORES')
  if #found == 0 then
    return false
  end
  local seen, left, members, scores, byes = into .. 'seen', into .. 'left', {}, {}, {}
  local life = max(call('PTTL', seen), call('PTTL', from .. 'seen'))
  local left_life = max(call('PTTL', left), call('PTTL', from .. 'left'))
  for i = 1, #found, 2 do
    members[#members + 1] = found[i]
  end
  local ours, our_byes = scores_of(seen, members), scores_of(left, members)
  local their_byes = scores_of(from .. 'left', members)
  local newest = min(now, max(theirs[LAST], state[LAST]))
  local room, oldest = MAX_IDS - call('ZCARD', seen), newest - timeout - LATE_MS
  for m = #members, 1, -1 do
    local score = later_of(tonumber(found[2 * m]), ours[m])
    local last = min(math.abs(score), now)
    if not ours[m] and last >= oldest then
      room = room - 1
    end
    if ours[m] or last >= oldest and room >= 0 then
      local bye = bye_of(last, their_byes[m], our_byes[m], now)
      scores[#scores + 1] = (bye or score < 0) and -last or last
      scores[#scores + 1] = members[m]
      if bye then
        byes[#byes + 1], byes[#byes + 2] = bye, members[m]
      end
    end
  end
  call('ZREMRANGEBYRANK', from .. 'seen', -STEP, -1)
  if #scores > 0 then
    call('ZADD', seen, unpack_list(scores))
    call('PEXPIRE', seen, life > 0 and life or timeout + DAY_MS)
  end
  if #byes > 0 then
    call('ZADD', left, unpack_list(byes))
    state[LEFT] = call('PEXPIRE', left, left_life > 0 and left_life or DAY_MS)
  end
  state[SKETCHED] = now + 1 -- whoever came over is in none of our sketches
  save_state(into, state)
  return call('EXISTS', from .. 'seen') == 1
end

-- Brings over some pages; the smaller set goes into the larger one. Returns whether there may be
-- others.
local function carry_pages(from, into)
  local source, target = from .. 'pages', into .. 'pages'
  if call('ZCARD', source) > call('ZCARD', target) then
    local smaller = from .. 'smaller'
    local is_any = call('EXISTS', target) == 1 and call('RENAME', target, smaller)
    call('RENAME', source, target)
    if is_any then
      call('RENAME', smaller, source)
    end
  end
  local found, paths, sums = call('ZRANGE', source, 0, STEP - 1, 'WITHSCORES'), {}, {}
  if #found == 0 then
    return false
  end
  for i = 1, #found, 2 do
    paths[#paths + 1] = found[i]
  end
  local ours = scores_of(target, paths)
  for n, path in ipairs(paths) do
    sums[2 * n - 1], sums[2 * n] = found[2 * n] + (ours[n] or 0), path
  end
  call('ZADD', target, unpack_list(sums))
  call('ZREMRANGEBYRANK', source, 0, STEP - 1)
  return call('EXISTS', source) == 1
end

-- The names of what a generation counted by date, and which of its periods have a living sketch.
local function contents_of(base)
  local names, sketched = {}, {}
  for _, name in ipairs(call('ZRANGE', base .. 'index', 0, -1)) do
    local kind, label = string.match(name, '^visitors:(%a+):(.*)$')
    if not kind then
      names[#names + 1] = name
    elseif call('EXISTS', base .. name) == 1 then
      sketched[kind .. ' ' .. label] = true
    end
  end
  return names, sketched
end

-- Adds a hash of numbers, but not the visitors of periods whose sketch lives in either generation,
-- which are noted in `labels`: they are to be merged. The other visitors add, and such a sum is
-- approximate. Returns how many are.
local function merge_numbers(from, into, name, sketched, labels)
  local kind, stem = string.match(name, '^(%a+):?(.*)$')
  local theirs, ours, sums, approximate = read_hash(from .. name), read_hash(into .. name), {}, 0
  stem = kind .. ' ' .. (stem == '' and '' or stem .. '-')
  for field, value in pairs(theirs) do
    local part, metric = sub(field, 1, -2), sub(field, -1)
    if metric == 'u' and sketched[stem .. part] then
      labels[stem .. part] = true
    else
      sums[#sums + 1] = field
      sums[#sums + 1] = metric == 'a' and '1' or whole(value + (ours[field] or 0))
      if metric == 'u' and ours[field] then
        sums[#sums + 1], sums[#sums + 2] = part .. 'a', '1'
        approximate = approximate + 1
      end
    end
  end
  if #sums > 0 then
    call('HSET', into .. name, unpack_list(sums))
  end
  remember(into, name)
  return approximate
end

-- The hashes with numbers of periods that run or whose sketch lives, in either generation.
local function recent_hashes(ours, theirs, ...)
  local recent = {}
  for _, sketched in ipairs({...}) do
    for period in pairs(sketched) do
      recent[place(string.match(period, '^(%a+) (.*)$'))] = true
    end
  end
  for n = DAY, YEAR, 2 do
    recent[place(KINDS[n], ours[n])], recent[place(KINDS[n], theirs[n])] = true, true
  end
  return recent
end

-- Brings over some of the older numbers. Returns whether there may be others, and how many sums are
-- approximate.
local function carry_numbers(from, into, ours, theirs)
  local names, sketched = contents_of(from)
  local _, our_sketched = contents_of(into)
  local recent = recent_hashes(ours, theirs, sketched, our_sketched)
  local merged, approximate = 0, 0
  for _, name in ipairs(names) do
    if merged == HASHES then
      return true, approximate
    elseif sub(name, 1, 6) ~= 'drops:' and not recent[name] then
      if call('EXISTS', from .. name) == 1 and call('EXISTS', into .. name) == 0 then
        call('RENAME', from .. name, into .. name)
        remember(into, name)
      else
        approximate = approximate + merge_numbers(from, into, name, {}, {})
        call('UNLINK', from .. name)
        merged = merged + 1
      end
      call('ZREM', from .. 'index', name)
    end
  end
  return false, approximate
end

--------------------------------------------------------------------------------------- what is left

-- Sketches merge while they live; else the numbers add, and the sum is approximate. What was frozen
-- never becomes less. Returns 1 for an approximate sum.
local function merge_visitors(from, into, kind, label)
  local source, target = sketch_of(from, kind, label), sketch_of(into, kind, label)
  local hash, field = place(kind, label)
  local theirs = tonumber(call('HGET', from .. hash, field .. 'u'))
  local ours = tonumber(call('HGET', into .. hash, field .. 'u'))
  local target_lives = call('EXISTS', target) == 1
  local visitors, approximate = nil, 0
  if call('EXISTS', source) == 1 and (target_lives or not ours) then
    call('PFMERGE', target, source)
    remember(into, 'visitors:' .. kind .. ':' .. label)
    if theirs or ours then
      visitors = max(theirs or 0, ours or 0, call('PFCOUNT', target))
    end
  else
    visitors = theirs or call('PFCOUNT', source)
    if ours or target_lives then
      visitors, approximate = visitors + (ours or call('PFCOUNT', target)), 1
      call('HSET', into .. hash, field .. 'a', 1)
    end
  end
  if visitors then
    call('HSET', into .. hash, field .. 'u', whole(visitors))
  end
  return approximate
end

local function merge_drops(from, into, name, now)
  local theirs, ours, sums = read_hash(from .. name), read_hash(into .. name), {}
  for field, hits in pairs(theirs) do
    sums[#sums + 1], sums[#sums + 2] = field, whole(hits + (ours[field] or 0))
  end
  local life = max(call('PTTL', from .. name), call('PTTL', into .. name))
  if life > 0 then
    call('HSET', into .. name, unpack_list(sums))
    call('PEXPIRE', into .. name, life)
    remember(into, name, now + life)
  end
end

-- What both generations' seeds add up to; else why not, where that is beyond what is exact.
local function sum_of_seeds(from, into)
  local theirs, ours, sums = read_hash(from .. 'seeds'), read_hash(into .. 'seeds'), {}
  for field, amount in pairs(theirs) do
    sums[field] = amount + (ours[field] or 0)
    if not is_exact(sums[field]) then
      return nil, 'BEYOND ' .. string.match(field, '^%a+') .. ' 0'
    end
  end
  return sums
end

-- Returns 1 for an approximate sum, where a sketch is lost.
local function merge_total(from, into, theirs, ours)
  local i, name, is_sum = NUMBERS[TOTAL], 'visitors:total', false
  for _, each in ipairs({{from, theirs}, {into, ours}}) do
    is_sum = is_sum or each[2][i + 2] > 0 and call('EXISTS', each[1] .. name) == 0
  end
  call('PFMERGE', into .. name, from .. name)
  raise(ours, TOTAL, theirs[i], theirs[i + 1])
  ours[i + 2] = max(is_sum and theirs[i + 2] + ours[i + 2] or 0, theirs[i + 2], ours[i + 2],
    call('PFCOUNT', into .. name))
  ours[CHANGED] = set_bit(ours[CHANGED], TOTAL, false)
  local was_sum = is_set(theirs[APPROXIMATE], TOTAL) or is_set(ours[APPROXIMATE], TOTAL)
  ours[APPROXIMATE] = set_bit(ours[APPROXIMATE], TOTAL, is_sum or was_sum)
  ours[SINCE] = min(ours[SINCE], theirs[SINCE])
  ours[LAST] = max(ours[LAST], theirs[LAST])
  if theirs[PEAK] > ours[PEAK] then
    ours[PEAK], ours[PEAK_AT] = theirs[PEAK], theirs[PEAK_AT]
  end
  return is_sum and 1 or 0
end

-- Of both generations' running periods the newer one runs on; the older one is frozen.
local function merge_running(into, theirs, ours, now)
  if theirs[DAY] > ours[DAY] then
    ours[BEGAN] = theirs[BEGAN]
  elseif theirs[DAY] == ours[DAY] and theirs[BEGAN] ~= ours[BEGAN] then
    ours[BEGAN] = NEVER[WEEK]
  end
  ours[SKETCHED] = now + 1
  for n = DAY, YEAR, 2 do
    local older, newer = theirs[n], ours[n]
    if older > newer then
      older, newer = newer, older
    end
    if older ~= newer and older ~= NEVER[n] then
      freeze(into, KINDS[n], older, now)
    end
    if newer ~= NEVER[n] then
      local p, v, u, approximate = ended_numbers(into, KINDS[n], newer)
      local sketch = sketch_of(into, KINDS[n], newer)
      set_period(ours, n, newer, p, v, max(u, call('PFCOUNT', sketch)), approximate)
      call('PERSIST', sketch)
      remember(into, 'visitors:' .. KINDS[n] .. ':' .. newer)
    end
    forget_previous(ours, n)
  end
end

-- Notes the numbers of the running periods where those of ended ones are, visitors only where there
-- is no sketch.
local function settle_all(base, state)
  for n = DAY, YEAR, 2 do
    local visitors = state[NUMBERS[n] + 2]
    if state[n] ~= NEVER[n] then
      settle(base, state, n)
      if visitors > 0 and call('EXISTS', sketch_of(base, KINDS[n], state[n])) == 0 then
        local hash, field = place(KINDS[n], state[n])
        call('HSET', base .. hash, field .. 'u', whole(visitors))
      end
    end
  end
end

-- Adds what is left of one generation to another, at once. Returns how many sums are approximate.
local function merge(from, into, theirs, ours, seeds, now)
  settle_all(from, theirs)
  settle_all(into, ours)
  local names, labels = contents_of(from)
  local _, sketched = contents_of(into)
  local approximate = 0
  for period in pairs(labels) do
    sketched[period] = true
  end
  for _, name in ipairs(names) do
    if sub(name, 1, 6) == 'drops:' then
      merge_drops(from, into, name, now)
    else
      approximate = approximate + merge_numbers(from, into, name, sketched, labels)
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
  merge_candidates(from, into)
  for field, amount in pairs(seeds) do
    call('HSET', into .. 'seeds', field, whole(amount))
    ours[SEEDED] = 1
  end
  approximate = approximate + merge_total(from, into, theirs, ours)
  merge_running(into, theirs, ours, now)
  save_state(into, ours)
  forget(from)
  return approximate
end

-- The generation that a reset moved away, nothing for an unknown reset; "undoing" or "undone", or
-- nothing before; how many sums are approximate so far.
local function moved_by(tag, site, operation)
  local entry = call('HGET', tag .. ':operations:' .. site, operation)
  local moved = tonumber(entry and string.match(entry, '^reset:(%d+):') or nil)
  local noted = moved and call('HGET', tag .. ':generations', site .. ':' .. moved) or ''
  local word, approximate = string.match(noted, '^(%a*) ?(%d*)$')
  return moved, word, tonumber(approximate) or 0
end

-- Whether a generation between two was moved away by a reset that has not been undone.
local function is_any_between(tag, site, moved, current)
  for later = moved + 1, current - 1 do
    local noted = call('HGET', tag .. ':generations', site .. ':' .. later)
    if not noted or sub(noted, 1, 7) == 'undoing' then
      return true
    end
  end
end

------------------------------------------------------------------------------------------- function

-- undo(tag; site, operation of a reset, visit_timeout) adds the moved generation back to the
-- current one, a part of it at a time. Answers nothing while there is more to do, then how many
-- numbers of visitors became approximate; the same when it is repeated.
local function undo(keys, args)
  local tag, site, operation, timeout, now = keys[1], args[1], args[2], args[3], store_time()
  local moved, word, approximate = moved_by(tag, site, operation)
  local current = tonumber(call('HGET', tag .. ':generations', site))
  if not moved then
    return redis.error_reply('NOOPERATION no such reset in the last 30 days')
  elseif word == 'undone' then
    return approximate
  elseif not current then
    return redis.error_reply('NOSITE no such site')
  elseif is_any_between(tag, site, moved, current) then
    return redis.error_reply('NEWER a newer reset must be undone first')
  end
  local from, into = base_of(tag, site, moved), base_of(tag, site, current)
  local seeds, problem = sum_of_seeds(from, into)
  if not seeds then
    return redis.error_reply(problem)
  end
  local theirs, ours = load_state(from), load_state(into)
  local more = carry_visitors(from, into, theirs, ours, timeout, now) or carry_pages(from, into)
  if not more then
    local sums
    more, sums = carry_numbers(from, into, ours, theirs)
    approximate = approximate + sums
  end
  if not more then
    approximate = approximate + merge(from, into, theirs, ours, seeds, now)
    call('HINCRBY', tag .. ':sites', '#', 1)
  end
  word = more and 'undoing ' or 'undone '
  call('HSET', tag .. ':generations', site .. ':' .. moved, word .. approximate)
  return not more and approximate
end

register('undo', undo)

end
