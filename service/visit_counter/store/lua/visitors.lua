-- Visitors: when a visit begins, who is online, who is held. In this order:
--
--   hits        played in their order, and written down
--   trimming    of those whom no hit needs any more
--   attendance  what a part of a batch brings

-- For hits and counts, in counting.lua.
local attend, online_now

do

local TRIM_MS = 60000
local TRIMMED_AT_ONCE = 2000 -- ids: a millisecond
local BYE, KNOWN_ONLY = 1, 2 -- flags of a hit, added up
local PLAIN, NEW, HELD = '0', '1', '2' -- what became of a hit

----------------------------------------------------------------------------------------------- hits

-- The last view or here of each member, no later than now, false for one who is not there; how many
-- are not; who was seen since an instant; and who has left, if anybody has.
local function last_of(key, members, since, now)
  local last, missing, lately, left = call('ZMSCORE', key, unpack_list(members)), 0, {}, nil
  local number = tonumber
  for m = 1, #members do
    local score = last[m]
    if score then
      score = number(score)
      if score < 0 then
        score, left = -score, left or {}
        left[m] = true
      end
      last[m], lately[m] = min(score, now), score >= since and score <= now
    else
      missing = missing + 1
    end
  end
  return last, missing, lately, left
end

-- When those who have left said bye, no later than now, as far as a late view may need it.
local function byes_of(key, members, left, now)
  local byes = {}
  if left then
    local found = call('ZMSCORE', key, unpack_list(members))
    for m in pairs(left) do
      byes[m] = min(tonumber(found[m] or 0), now)
    end
  end
  return byes
end

-- Plays a part's hits in their order; brings `last` and `byes` up to date, and notes in batch.marks
-- what became of each. Returns how many visits began, the newest hit, who was counted, and who of
-- those known said bye.
local function play(part, last, byes, room, batch)
  local visits, newest, counted, said = 0, 0, {}, {}
  local runs, whose, marks, timeout, n = part.runs, part.whose, batch.marks, part.timeout, 0
  local marked = #marks
  for r = 1, #runs, 3 do
    local flags, at = runs[r], min(runs[r + 1], part.latest)
    newest = max(newest, at)
    for _ = 1, runs[r + 2] do
      n = n + 1
      local m, mark = whose and whose[n] or n, PLAIN
      local before = last[m]
      if flags % 2 == BYE then
        if before then
          byes[m], said[m] = max(byes[m] or 0, at), true
        end
      elseif not before and (flags >= KNOWN_ONLY or room <= 0) then
        mark = HELD
        batch.full = batch.full + (flags >= KNOWN_ONLY and 0 or 1)
      else
        if not before then
          mark, room = NEW, room - 1
        end
        if not before or at - before >= timeout then
          visits = visits + 1
        end
        if not before or before < at then
          last[m] = at
        end
        counted[m] = true
      end
      marks[marked + n] = mark
    end
  end
  return visits, newest, counted, said
end

-- Writes when visitors were seen last, below 0 for one who said bye since, and when byes were said.
-- A bye less than 2 s after a view may have been overtaken by it.
local function write_visitors(part, members, last, byes, counted, said)
  local scores, left, n, gone = {}, {}, 0, 0
  for m = 1, #members do
    local bye, is_gone = byes[m], false
    if bye then
      is_gone = bye >= last[m] + BYE_MS
      if is_gone and said[m] then
        left[gone + 1], left[gone + 2], gone = bye, members[m], gone + 2
      end
    end
    if counted[m] or is_gone and said[m] then
      scores[n + 1], scores[n + 2], n = is_gone and -last[m] or last[m], members[m], n + 2
    end
  end
  if n > 0 then
    call('ZADD', part.base .. 'seen', unpack_list(scores))
  end
  if gone > 0 then
    call('ZADD', part.base .. 'left', unpack_list(left))
    part.state[LEFT] = call('PEXPIRE', part.base .. 'left', part.window + LATE_MS)
  end
end

------------------------------------------------------------------------------------------- trimming

-- Removes members with scores from low to high, the first ones where they are many: a million at
-- once would block the store for half a second. Returns whether there may be more.
local function remove_some(key, low, high)
  local found = call('ZCOUNT', key, low, high)
  if found > 0 then
    local first = call('ZCOUNT', key, '-inf', '(' .. low)
    call('ZREMRANGEBYRANK', key, first, first + min(found, TRIMMED_AT_ONCE) - 1)
  end
  return found > TRIMMED_AT_ONCE
end

-- Whoever was seen later than now, as a wrong clock told, was seen now: they are online no longer,
-- and their visits end no later, than those of others. Returns whether there may be more.
local function correct_some(key, state, now)
  local low, most = '(' .. now, TRIMMED_AT_ONCE / 2
  local late = call('ZRANGEBYSCORE', key, low, '+inf', 'LIMIT', 0, most)
  local gone = call('ZRANGEBYSCORE', key, '-inf', '(' .. -now, 'LIMIT', 0, most)
  local scores = {}
  for _, member in ipairs(late) do
    scores[#scores + 1], scores[#scores + 2] = now, member
  end
  for _, member in ipairs(gone) do
    scores[#scores + 1], scores[#scores + 2] = -now, member
  end
  if #scores > 0 then
    call('ZADD', key, unpack_list(scores))
    state[SKETCHED] = now + 1 -- of these nobody knows on which days they came
  end
  return #late == most or #gone == most
end

-- Once a minute the sets lose whom no hit needs any more, and get a new life: they expire when
-- nobody comes. A set that is empty now is a new one at the next hit, and gets its life there, also
-- from a late hit. Of a quiet site ids stay a day, for a store that was away so long.
local function trim(part, newest, is_new, now)
  local base, state, timeout, window = part.base, part.state, part.timeout, part.window
  if not is_new and newest - state[TRIMMED] < TRIM_MS and state[TRIMMED] <= now then
    return
  end
  local seen, oldest = base .. 'seen', newest - timeout - LATE_MS
  local more = remove_some(seen, -oldest, oldest)
  more = correct_some(seen, state, now) or more
  if state[LEFT] == 1 then
    more = remove_some(base .. 'left', 0, newest - window) or more
    state[LEFT] = call('PEXPIRE', base .. 'left', window + LATE_MS)
  end
  local lives = call('PEXPIRE', seen, timeout + DAY_MS) == 1
  state[TRIMMED] = lives and not more and newest or 0
end

----------------------------------------------------------------------------------------- attendance

-- Since when visitors of a part's day are in its sketches, as far as is known: who was seen on the
-- running day is there, except in its first moments and where the week has changed under it.
local function sketched_since(part)
  local state, labels = part.state, part.labels
  local runs = labels[DAY] == state[DAY] and labels[WEEK] == state[BEGAN]
  return runs and state[SKETCHED] or math.huge
end

-- Brings the sets of visitors up to date with a part's hits. Returns how many visits began, how
-- many visitors were there, and who of them is to be added to the sketches.
function attend(part, batch)
  local key, number = part.base .. 'seen', part.visitors
  local members = {unpack_from(string.rep('c8', number), batch.ids, batch.cursor)}
  batch.cursor, members[number + 1] = members[number + 1], nil -- where the next part's begin
  local last, strangers, sketched, left = last_of(key, members, sketched_since(part), batch.now)
  local byes = byes_of(part.base .. 'left', members, left, batch.now)
  local room = strangers > 0 and MAX_IDS - call('ZCARD', key) or 0
  local visits, newest, counted, said = play(part, last, byes, room, batch)
  write_visitors(part, members, last, byes, counted, said)
  local there, added = 0, {}
  for m = 1, number do
    if counted[m] then
      there = there + 1
      if not sketched[m] then
        added[#added + 1] = members[m]
      end
    end
  end
  trim(part, newest, room == MAX_IDS, batch.now)
  return visits, there, added
end

-- How many were seen within the window and have not left.
function online_now(base, window, now)
  return call('ZCOUNT', base .. 'seen', now - window + 1, '+inf')
end

end
