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
--   <tag>:ledger:<producer>   string epoch, seq and day of its last batch, and the rejected ones
--                                   among the last 256, packed: see ENTRY         400 days
--   <tag>:ledger              hash  producer -> that day; `#` -> the installation
--
-- The installation's own record lies under a tag of its own, such as `vc:{meta}`:
--
--   <meta>                    hash  secret, partitions; and forms of data: schema -> the newest one
--                                   that the store may hold; copied -> for whose migration a copy
--                                   was made; writes -> which all write; converted -> the oldest
--                                   that is left
--   <meta>:workers            hash  producer:form -> instant and version of a worker    3 days
--
-- Packed bytes (STATE, ENTRY, a batch) begin with a byte that names their form; those of version
-- 0.1 have none: see form_of and docs/reference/forms.md.
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
-- GAP, FENCED, FORM) and are raised before the first write. REJECTED has used up the batch's
-- number, and counted nothing of it, unless a key got a wrong type in the middle of the day: then
-- the first batch that meets it may be counted by half. Nobody was told that it counted.

local WRITES = __writes__ -- the form in which this library packs
local NEWEST = __newest__ -- and the newest one that it reads
local UNVERSIONED = 4 -- the form of 0.1, which has no version byte

local DAY_MS = 86400000
local LATE_MS = 3600000 -- ids stay this much longer, so that late hits still find their visit
local SKETCH_MS = 8 * DAY_MS
local DROPS_MS = 431 * DAY_MS -- 400 days behind the last day of a month
local OPERATION_MS = 30 * DAY_MS
local LEDGER_DAYS = 400
local WORKER_MS = 3 * DAY_MS
local REMEMBERED = 256 -- more batches than are ever sent before the first one's answer is read
local AHEAD_MS = 2000 -- later than now, a hit would end periods before their time
local BYE_MS = 2000 -- a bye younger than this may have been overtaken by the next page's view
local MAX_IDS = 1000000
local MAX_RESETS = 1000 -- of a site whose generation is looked for
local MAX_GENERATIONS = 10000 -- of a site, that may have a state; older ones are long gone
local TRIM_MS = 60000
local SEVERAL = 256 -- one change among so many visitors is well within a sketch's error
local METRICS = {'p', 'v', 'u'}
local OTHER = '(other)'
local MANY_PATHS = 32 -- in one batch
local BYE, KNOWN_ONLY = 1, 2 -- flags of a hit, added up
local LATEST, OLDER = 1, 2 -- a visitor's hit, among those that we know
local PLAIN, NEW, HELD = '0', '1', '2' -- what became of a hit

-- A site shows eight periods: today, yesterday, this week, last week, this month, last month, this
-- year, and all in total. Each has a number, its place in lists; the number of a running period is
-- followed by that of the period before it.
local KINDS = {} -- the kind of each period, except the total, which has no label
local NEVER = {} -- a label of each that is less than any

local function add_period(kind, never)
  KINDS[#KINDS + 1], NEVER[#NEVER + 1] = kind, never
  return #KINDS
end

local DAY = add_period('day', '0000-00-00')
add_period('day', '0000-00-00')
local WEEK = add_period('week', '0000-00-00')
add_period('week', '0000-00-00')
local MONTH = add_period('month', '0000-00')
add_period('month', '0000-00')
local YEAR = add_period('year', '0000')
local TOTAL = #KINDS + 1

-- The layout of packed bytes: after the version byte come the fields, in the order in which they
-- are added here. `add_text` and `add_number` answer the place of the new field in the list that
-- `struct` unpacks; formats and bytes are added up. One more field, or another order, is another
-- form: see docs/reference/forms.md.
local function new_layout()
  return {format = '<', fields = 0, bytes = 1, first_byte = {}, last_byte = {}}
end

local function add_field(layout, format, bytes)
  local field = layout.fields + 1
  layout.format, layout.fields = layout.format .. format, field
  layout.first_byte[field], layout.last_byte[field] = layout.bytes + 1, layout.bytes + bytes
  layout.bytes = layout.bytes + bytes
  return field
end

local function add_text(layout, length)
  return add_field(layout, 'c' .. length, length)
end

local function add_number(layout)
  return add_field(layout, 'd', 8)
end

-- The state of a site, which is read and written with every batch: packed, since fields of a hash
-- cost four times as much, and unpacked into a list, since a table with a name for each field costs
-- a batch of one hit a tenth more.
local STATE = new_layout()
for n = 1, #KINDS do
  add_text(STATE, #NEVER[n]) -- label of period n; where none runs, of the one last asked for
end
local VIEW = STATE.format -- the labels of all periods, as of an instant
local BEGAN = add_text(STATE, #NEVER[WEEK]) -- the week that the running day was started with
local NUMBERS = {} -- of each period, where its pageviews are; visits and visitors come after them
for n = 1, TOTAL do
  NUMBERS[n] = add_number(STATE)
  add_number(STATE)
  add_number(STATE)
end
local SINCE = add_number(STATE)
local LAST = add_number(STATE) -- instant of the last hit
local PEAK = add_number(STATE)
local PEAK_AT = add_number(STATE)
local CHANGES = {} -- of each period, those of its sketch since the visitors were read from it
for n = 1, TOTAL do
  CHANGES[n] = add_number(STATE)
end
local TRIMMED = add_number(STATE) -- instant at which `seen` and `left` were trimmed
local SEEDED = add_number(STATE) -- 1: there are seeds
local LEFT = add_number(STATE) -- 1: there may be `left`
local CURRENT = add_number(STATE) -- 1: the generation runs
local SKETCHED = add_number(STATE) -- who was seen since then is in the running day's sketches
local PACKED = STATE.fields + 1 -- the bytes in the store; false: their labels are not the state's

local STATE_FIELDS, STATE_BYTES = STATE.format, STATE.bytes
local STATE_FORMAT = 'B' .. STATE_FIELDS
local VIEW_FROM, VIEW_TO = STATE.first_byte[DAY], STATE.last_byte[YEAR]
local SHOWN_FROM, SHOWN_TO = STATE.first_byte[NUMBERS[DAY]], STATE.last_byte[PEAK_AT]

-- A producer's entry in the ledger. After these fields come the numbers of batches that were
-- rejected, each with a colon before it.
local ENTRY = new_layout()
add_number(ENTRY) -- epoch
add_number(ENTRY) -- number of its last batch
add_number(ENTRY) -- day of that

local ENTRY_FIELDS, ENTRY_BYTES = ENTRY.format, ENTRY.bytes -- without what was rejected
local ENTRY_FORMAT = 'B' .. ENTRY_FIELDS

-- What is used all the time: a global costs a search in two tables each time.
local call, max, min, sub, byte, pack, unpack_from, unpack_list

local function bind()
  call, max, min, sub, byte = redis.call, math.max, math.min, string.sub, string.byte
  pack, unpack_from, unpack_list = struct.pack, struct.unpack, unpack
end

local function store_time()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function base_of(tag, site, generation)
  return tag .. ':' .. site .. ':' .. generation .. ':'
end

-- Hits count into the generation they were accepted under, but for one that was undone, and for one
-- that nobody knows any more, since a failover has lost the reset that began it.
local function generations_of(tag, site, accepted)
  local found = call('HMGET', tag .. ':generations', site, site .. ':' .. accepted)
  local current = tonumber(found[1] or accepted)
  local gone = found[2] or accepted > current
  return gone and current or accepted, current
end

local function current_base(tag, site)
  local current = call('HGET', tag .. ':generations', site)
  return current and base_of(tag, site, current)
end

-- The hash that holds a period's numbers, and what its fields begin with.
local function place(kind, label)
  if kind == 'day' then
    return 'day:' .. sub(label, 1, 7), sub(label, 9)
  elseif kind == 'week' or kind == 'month' then
    return kind .. ':' .. sub(label, 1, 4), sub(label, 6)
  end
  return kind, label
end

local function sketch_of(base, kind, label)
  return base .. 'visitors:' .. kind .. ':' .. label
end

local function labels_of(day, week)
  return {day, false, week, false, sub(day, 1, 7), false, sub(day, 1, 4)}
end

local function read_hash(key)
  local fields, flat = {}, call('HGETALL', key)
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

local function whole(number)
  return string.format('%d', number)
end

-- The form of packed bytes. Without a version byte a state begins with a digit of its first label,
-- an entry with the lowest byte of a double that is a small whole number, 0, and a batch with the
-- head of a list of msgpack.
local function form_of(packed)
  local first = byte(packed, 1) or 0
  return first > 0 and first < 48 and first or UNVERSIONED
end

-- Raises an error for packed bytes that this library cannot read: nothing was written yet.
local function check_form(form, name)
  if form < UNVERSIONED or form > NEWEST then
    error({err = 'FORM ' .. form .. ' ' .. name}, 0)
  end
end

-- Where the fields begin in packed bytes of a form.
local function fields_from(form)
  return form == UNVERSIONED and 1 or 2
end

local function blank_state()
  local state = {unpack_list(NEVER)}
  state[BEGAN] = NEVER[WEEK]
  for i = BEGAN + 1, PACKED - 1 do
    state[i] = 0
  end
  return state
end

-- `packed`: as MGET has found it, which finds nothing where GET raises an error for a wrong type.
local function load_state(base, packed)
  packed = packed or call('GET', base .. 'running')
  if not packed then
    return blank_state()
  end
  local form = form_of(packed)
  check_form(form, base .. 'running')
  local state = {unpack_from(STATE_FIELDS, packed, fields_from(form))}
  state[PACKED] = form == WRITES and packed
  return state
end

local function labels_in(view)
  return {unpack_from(VIEW, view)}
end

local function packed_state(state)
  return pack(STATE_FORMAT, WRITES, unpack_list(state, 1, PACKED - 1))
end

-- Whether the state has all periods of a view.
local function is_kept(state, view)
  return state[PACKED] and sub(state[PACKED], VIEW_FROM, VIEW_TO) == view
end

local function save_state(base, state)
  state[PACKED] = packed_state(state)
  call('SET', base .. 'running', state[PACKED])
end

local function set_period(state, n, label, p, v, u)
  local i = NUMBERS[n]
  state[n], state[i], state[i + 1], state[i + 2] = label, p, v, u
  state[CHANGES[n]], state[PACKED] = 0, false
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
  call('ZADD', base .. 'index', gone_at or '+inf', name)
end

-- Removes all that a generation counted.
local function forget(base)
  for _, name in ipairs(call('ZRANGE', base .. 'index', 0, -1)) do
    call('UNLINK', base .. name)
  end
  for _, name in ipairs({'running', 'seen', 'left', 'pages', 'seeds', 'index', 'visitors:total'}) do
    call('UNLINK', base .. name)
  end
end

------------------------------------------------------------------------------------------ ledger

local function entry_key(tag, producer)
  return tag .. ':ledger:' .. producer
end

-- A producer's entry: the epoch and seq of its last batch here, the day of that, and which batches
-- were rejected; of one that is unknown zeros. `packed`: see load_state.
local function entry_of(tag, producer, packed)
  local key = entry_key(tag, producer)
  packed = packed or call('GET', key) or pack(ENTRY_FORMAT, WRITES, 0, 0, 0)
  local form = form_of(packed)
  check_form(form, key)
  local epoch, seq, day, rejected = unpack_from(ENTRY_FIELDS, packed, fields_from(form))
  return {
    tag = tag, producer = producer, key = key,
    epoch = epoch, seq = seq, day = day, rejected = sub(packed, rejected),
  }
end

-- Notes the day that a producer was last here.
local function touch_ledger(entry, now)
  local today = math.floor(now / DAY_MS)
  if today ~= entry.day then
    call('HSET', entry.tag .. ':ledger', entry.producer, today)
    entry.day = today
  end
end

local function remembered(rejected, seq)
  local kept = ''
  for number in string.gmatch(rejected, '%d+') do
    if tonumber(number) > seq - REMEMBERED then
      kept = kept .. ':' .. number
    end
  end
  return kept
end

local function packed_entry(entry)
  local head = pack(ENTRY_FORMAT, WRITES, entry.epoch, entry.seq, entry.day)
  local rejected = entry.rejected
  return rejected == '' and head or head .. remembered(rejected, entry.seq)
end

local function write_entry(entry, now)
  touch_ledger(entry, now)
  call('SET', entry.key, packed_entry(entry))
end

local function was_rejected(entry, seq)
  return string.find(entry.rejected .. ':', ':' .. whole(seq) .. ':', 1, true)
end

local function prune_ledger(tag, now)
  for producer, day in pairs(read_hash(tag .. ':ledger')) do
    if producer ~= '#' and tonumber(day) < now / DAY_MS - LEDGER_DAYS then
      call('UNLINK', entry_key(tag, producer))
      call('HDEL', tag .. ':ledger', producer)
    end
  end
end

--------------------------------------------------------------------------------- visitors of a hit

-- The last view or here of each member, false for one who is not there; how many are not; and who
-- was seen since an instant.
local function last_of(key, members, since)
  local last, missing, lately = call('ZMSCORE', key, unpack_list(members)), 0, {}
  local number = tonumber
  for m = 1, #members do
    local score = last[m]
    if score then
      score = number(score)
      last[m], lately[m] = score, score >= since
    else
      missing = missing + 1
    end
  end
  return last, missing, lately
end

-- Plays a part's hits in their order; brings `last` up to date, and notes in batch.marks what
-- became of each. Answers how many visits began, the newest hit, who was counted, who left.
local function play(part, last, room, batch)
  local visits, newest, counted, left = 0, 0, {}, {}
  local runs, whose, marks, timeout, n = part.runs, part.whose, batch.marks, part.timeout, 0
  local marked = #marks
  for r = 1, #runs, 3 do
    local flags, at = runs[r], min(runs[r + 1], batch.now)
    newest = max(newest, at)
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
        if not before or at - before >= timeout then
          visits = visits + 1
        end
        if not before or before < at then
          last[m], left[m], counted[m] = at, nil, LATEST
        else
          counted[m] = counted[m] or OLDER -- and does not bring back who left since
        end
      end
      marks[marked + n] = mark
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
    for m, which in pairs(counted) do
      back[#back + 1] = which == LATEST and not left[m] and members[m] or nil
    end
  end
  if #back > 0 and call('ZREM', key, unpack_list(back)) > 0 then
    part.state[LEFT] = call('EXISTS', key)
  end
  if #leaving > 0 then
    call('ZADD', key, unpack_list(leaving))
    part.state[LEFT] = call('PEXPIRE', key, part.window + LATE_MS) -- it may have been gone
  end
end

-- Once a minute the sets lose whom no hit needs any more, and get a new life: they expire when
-- nobody comes. A set that is empty now is a new one at the next hit, and gets its life there, also
-- from a late hit. Of a quiet site ids stay a day, for a store that was away so long.
local function trim(part, newest, is_new)
  local base, state, timeout, window = part.base, part.state, part.timeout, part.window
  if not is_new and math.abs(newest - state[TRIMMED]) < TRIM_MS then
    return
  end
  call('ZREMRANGEBYSCORE', base .. 'seen', '-inf', newest - timeout - LATE_MS)
  state[TRIMMED] = call('PEXPIRE', base .. 'seen', timeout + DAY_MS) == 1 and newest or 0
  if state[LEFT] == 1 then
    call('ZREMRANGEBYSCORE', base .. 'left', '-inf', newest - window)
    state[LEFT] = call('PEXPIRE', base .. 'left', window + LATE_MS)
  end
end

-- Since when visitors of a part's day are in its sketches, as far as is known: who was seen on the
-- running day is there, but for its first moments and where the week has changed under it.
local function sketched_since(part)
  local state, labels = part.state, part.labels
  local runs = labels[DAY] == state[DAY] and labels[WEEK] == state[BEGAN]
  return runs and state[SKETCHED] or math.huge
end

-- Brings the sets of visitors up to date with a part's hits. Answers how many visits began, how
-- many visitors were there, and who of them is to be added to the sketches.
local function attend(part, batch)
  local key, number, scores = part.base .. 'seen', part.visitors, {}
  local members = {unpack_from(string.rep('c8', number), batch.ids, batch.cursor)}
  batch.cursor, members[number + 1] = members[number + 1], nil -- behind those it read
  local last, strangers, sketched = last_of(key, members, sketched_since(part))
  local room = strangers > 0 and MAX_IDS - call('ZCARD', key) or 0
  local visits, newest, counted, left = play(part, last, room, batch)
  if next(left) or part.state[LEFT] == 1 then
    take_leave(part, members, last, counted, left)
  end
  local n, added = 0, {}
  for m = 1, number do
    if counted[m] then
      n = n + 1
      scores[2 * n - 1], scores[2 * n] = last[m], members[m]
      if not sketched[m] then
        added[#added + 1] = members[m]
      end
    end
  end
  if n > 0 then
    call('ZADD', key, unpack_list(scores))
  end
  trim(part, newest, room == MAX_IDS)
  return visits, n, added
end

------------------------------------------------------------------------------------------- periods

-- The number of an ended period no longer moves with its sketch, which may then expire.
local function freeze(base, kind, label, now)
  local sketch = sketch_of(base, kind, label)
  if call('EXISTS', sketch) == 0 then
    return
  end
  local hash, field = place(kind, label)
  local known = tonumber(call('HGET', base .. hash, field .. 'u') or 0)
  local visitors = max(known, call('PFCOUNT', sketch))
  call('HSET', base .. hash, field .. 'u', visitors)
  call('PEXPIRE', sketch, SKETCH_MS)
  remember(base, 'visitors:' .. kind .. ':' .. label, now + SKETCH_MS)
end

-- Notes the running period's pageviews and visits where those of ended periods are.
local function settle(base, state, n)
  local hash, field = place(KINDS[n], state[n])
  local i = NUMBERS[n]
  call('HSET', base .. hash, field .. 'p', whole(state[i]), field .. 'v', whole(state[i + 1]))
end

-- The pageviews, visits and visitors of a period that does not run.
local function ended_numbers(base, kind, label)
  local hash, field = place(kind, label)
  local found = call('HMGET', base .. hash, field .. 'p', field .. 'v', field .. 'u')
  return tonumber(found[1] or 0), tonumber(found[2] or 0),
    tonumber(found[3] or call('PFCOUNT', sketch_of(base, kind, label)))
end

-- The first hit of a newer label ends the running period of that kind.
local function turn_periods(part, now)
  local base, state, labels = part.base, part.state, part.labels
  if labels[DAY] == state[DAY] and labels[WEEK] == state[WEEK] then
    return
  end
  for n = DAY, YEAR, 2 do
    local kind, label, running = KINDS[n], labels[n], state[n]
    if label > running then
      if running ~= NEVER[n] then
        settle(base, state, n)
        freeze(base, kind, running, now)
      end
      set_period(state, n, label, ended_numbers(base, kind, label))
      remember(base, (place(kind, label)))
      remember(base, 'visitors:' .. kind .. ':' .. label)
      if n == DAY then
        -- As the hits were named, also where their clock was ahead: who came later came today.
        state[BEGAN], state[SKETCHED] = labels[WEEK], part.newest
        call('ZREMRANGEBYSCORE', base .. 'index', '-inf', now)
      end
    end
  end
end

-- A late hit adds its visitor only while the sketch lives, and never lowers a frozen number.
local function add_late_visitors(base, kind, label, visitors, now)
  local sketch = sketch_of(base, kind, label)
  local hash, field = place(kind, label)
  local frozen = tonumber(call('HGET', base .. hash, field .. 'u'))
  local alive = call('EXISTS', sketch) == 1
  if frozen and not alive then
    return
  end
  call('PFADD', sketch, unpack_list(visitors))
  if not alive then
    call('PEXPIRE', sketch, SKETCH_MS)
    remember(base, (place(kind, label)))
    remember(base, 'visitors:' .. kind .. ':' .. label, now + SKETCH_MS)
  end
  local visitors_now = call('PFCOUNT', sketch)
  call('HSET', base .. hash, field .. 'u', max(frozen or 0, visitors_now))
end

-- Adds to a running sketch; answers whether that changed it. To read a large sketch costs more than
-- to add to it, so its number may lag by half of its standard error.
local function add_to_sketch(sketch, state, n, visitors)
  if call('PFADD', sketch, unpack_list(visitors)) == 0 then
    return false
  end
  local u, x = NUMBERS[n] + 2, CHANGES[n]
  state[x] = state[x] + #visitors
  if state[x] * SEVERAL >= state[u] then
    state[u], state[x] = max(state[u], call('PFCOUNT', sketch)), 0
  end
  return true
end

-- Whoever changes nothing in the day's sketch is in the longer periods' sketches already, since
-- every visitor of the day was added to all of them: to those of the labels the day began with.
local function add_visitors(part, visitors, now)
  local base, state, labels = part.base, part.state, part.labels
  for n = DAY, YEAR, 2 do
    local kind, label = KINDS[n], labels[n]
    if label < state[n] then
      add_late_visitors(base, kind, label, visitors, now)
    else
      local changed = add_to_sketch(sketch_of(base, kind, label), state, n, visitors)
      if n == DAY and not changed and labels[WEEK] == state[BEGAN] then
        return
      end
    end
  end
  add_to_sketch(base .. 'visitors:total', state, TOTAL, visitors)
end

-- Has the numbers of the period before the running one read anew.
local function forget_previous(state, n)
  if n ~= YEAR then
    state[n + 1], state[PACKED] = NEVER[n], false
  end
end

local function add_late_numbers(part, n, pageviews, visits)
  local hash, field = place(KINDS[n], part.labels[n])
  if pageviews > 0 then
    call('HINCRBY', part.base .. hash, field .. 'p', pageviews)
  end
  if visits > 0 then
    call('HINCRBY', part.base .. hash, field .. 'v', visits)
  end
  remember(part.base, hash)
  forget_previous(part.state, n)
end

local function raise(state, n, pageviews, visits)
  local i = NUMBERS[n]
  state[i], state[i + 1] = state[i] + pageviews, state[i + 1] + visits
end

local function add_numbers(part, visits)
  local state, labels, pageviews = part.state, part.labels, part.pageviews
  for n = DAY, YEAR, 2 do
    if labels[n] < state[n] then
      add_late_numbers(part, n, pageviews, visits)
    else
      raise(state, n, pageviews, visits)
    end
  end
  raise(state, TOTAL, pageviews, visits)
end

-- A sorted set of at most 128 short members has no index: each is looked for from end to end. A
-- long one makes it a set with an index, and it remains one.
local function index_pages(key)
  local long = string.rep('x', 65)
  call('ZADD', key, 0, long)
  call('ZREM', key, long)
end

local function add_pages(part)
  local key, paths, views = part.base .. 'pages', part.paths, part.views
  if #paths == 1 and call('ZADD', key, 'XX', 'INCR', views[1], paths[1]) then
    return
  elseif #paths > MANY_PATHS and call('ZCARD', key) <= 128 then
    index_pages(key)
  end
  local known, sums, n, others, room = call('ZMSCORE', key, unpack_list(paths)), {}, 0, 0, nil
  for i = 1, #paths do
    if not known[i] then
      room = (room or part.max_pages - call('ZCARD', key)) - 1
    end
    if known[i] or room >= 0 then
      sums[n + 1] = (known[i] or 0) + views[i]
      sums[n + 2] = paths[i]
      n = n + 2
    else
      others = others + views[i]
    end
  end
  if n > 0 then
    call('ZADD', key, unpack_list(sums))
  end
  if others > 0 then
    call('ZINCRBY', key, others, OTHER)
  end
end

local function add_drops(base, day, drops, now)
  local name = 'drops:' .. sub(day, 1, 7)
  for i = 1, #drops, 2 do
    call('HINCRBY', base .. name, sub(day, 9) .. ':' .. drops[i], drops[i + 1])
  end
  call('PEXPIRE', base .. name, DROPS_MS)
  remember(base, name, now + DROPS_MS)
end

-- Raises an error for a key of a type that counting it would stumble over.
local function expect(key, kind)
  local found = call('TYPE', key).ok
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
  local base, labels, view = part.base, part.labels, labels_in(part.view)
  for _, name in ipairs({'seen', 'left', 'pages', 'index'}) do
    expect(base .. name, 'zset')
  end
  for n = DAY, YEAR, 2 do
    expect_period(base, KINDS[n], labels[n])
    expect_period(base, KINDS[n], part.state[n])
    if n ~= YEAR then
      expect_period(base, KINDS[n], view[n + 1])
    end
  end
  expect_sketch(base .. 'visitors:total')
  expect(base .. 'seeds', 'hash')
  expect(base .. 'drops:' .. sub(labels[DAY], 1, 7), 'hash')
end

-- Counts the hits and drops of a part.
local function add_hits(part, batch)
  local state, visits, there, added = part.state, 0, 0, {}
  if part.visitors > 0 then
    visits, there, added = attend(part, batch)
  end
  if part.pageviews > 0 or there > 0 then
    turn_periods(part, batch.now)
    add_numbers(part, visits)
    if part.paths then
      add_pages(part)
    end
    if #added > 0 then
      add_visitors(part, added, batch.now)
    end
    state[LAST] = max(state[LAST], min(part.newest, batch.now))
  end
  if part.drops then
    add_drops(part.base, part.labels[DAY], part.drops, batch.now)
  end
end

------------------------------------------------------------------------------------------- reading

-- Who left was seen, but for a store that has lost one of the sets.
local function online_now(base, state, window, now)
  local since = now - window + 1
  local online = call('ZCOUNT', base .. 'seen', since, '+inf')
  if state[LEFT] == 0 then
    return online
  end
  return max(0, online - call('ZCOUNT', base .. 'left', since, '+inf'))
end

-- The pageviews, visits and visitors of the period that has number n as of now.
local function numbers_of(base, state, n, label)
  for kept = n - (n + 1) % 2, n + n % 2 do -- it may run still, or it has just ended
    if label == state[kept] then
      return unpack_list(state, NUMBERS[kept], NUMBERS[kept] + 2)
    end
  end
  return ended_numbers(base, KINDS[n], label)
end

-- The previous periods seldom change: while counting they are kept where the running ones are. Not
-- so a period that runs still, since another worker counts into it.
local function keep_previous(part)
  local state = part.state
  if is_kept(state, part.view) then
    return
  end
  local view = labels_in(part.view)
  for n = DAY + 1, MONTH + 1, 2 do
    local label = view[n]
    if label ~= state[n] and label ~= state[n - 1] then
      set_period(state, n, label, ended_numbers(part.base, KINDS[n], label))
    end
  end
end

-- The counts of a site: how many are online, how many seeds there are, then what the state holds
-- from the day's pageviews up to PEAK_AT, in its order. What is at i there is at COUNTED + i here.
local SEEDS = 2
local COUNTED = SEEDS + 1 - NUMBERS[DAY]

-- Adds what an admin added to the numbers of the asked periods, and tells of it.
local function add_seeds(base, view, counts)
  local seeds = read_hash(base .. 'seeds')
  for n = 1, TOTAL do
    local period = n == TOTAL and 'total:' or KINDS[n] .. ':' .. view[n]
    for m, metric in ipairs(METRICS) do
      local seed, i = tonumber(seeds[period .. ':' .. metric] or 0), COUNTED + NUMBERS[n] + m - 1
      if seed ~= 0 then
        counts[i], counts[SEEDS] = max(0, counts[i] + seed), counts[SEEDS] + 1
        counts[#counts + 1] = n
        counts[#counts + 1] = m
        counts[#counts + 1] = seed
      end
    end
  end
end

-- `view` has the labels of the periods as of now. Answers packed numbers: how many are online; how
-- many seeds there are; pageviews, visits and visitors of each period, with what an admin added and
-- never below 0; since, last hit, peak, its instant; of each seed the numbers of its period and its
-- metric, and the amount; pageviews of the paths. As a rule most of it lies in the packed state.
local function counts_of(base, state, view, online, paths)
  if state[SEEDED] == 0 and not paths and is_kept(state, view) then
    return pack('<dd', online, 0) .. sub(state[PACKED], SHOWN_FROM, SHOWN_TO)
  end
  view = labels_in(view)
  local counts = {online, 0, unpack_list(state, NUMBERS[DAY], PEAK_AT)}
  for n = DAY, YEAR do
    local i = COUNTED + NUMBERS[n]
    counts[i], counts[i + 1], counts[i + 2] = numbers_of(base, state, n, view[n])
  end
  if state[SEEDED] == 1 then
    add_seeds(base, view, counts)
  end
  for _, path in ipairs(paths or {}) do
    counts[#counts + 1] = call('ZSCORE', base .. 'pages', path) or 0
  end
  return pack('<' .. string.rep('d', #counts), unpack_list(counts))
end

---------------------------------------------------------------------------------------------- undo

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

local function keep_later(key, score, member)
  call('ZADD', key, 'GT', score, member)
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

-- Who left one generation may have come back to the other: then both sets differ.
local function merge_left(from, into, state)
  merge_set(from, into, 'left', keep_later)
  local members = call('ZRANGE', into .. 'left', 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    if call('ZSCORE', into .. 'seen', members[i]) ~= members[i + 1] then
      call('ZREM', into .. 'left', members[i])
    end
  end
  state[LEFT] = call('EXISTS', into .. 'left')
end

local function merge_total(from, into, theirs, ours)
  local i = NUMBERS[TOTAL]
  call('PFMERGE', into .. 'visitors:total', from .. 'visitors:total')
  raise(ours, TOTAL, theirs[i], theirs[i + 1])
  ours[i + 2], ours[CHANGES[TOTAL]] = call('PFCOUNT', into .. 'visitors:total'), 0
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
  merge_left(from, into, ours)
  merge_seeds(from, into, ours)
  merge_total(from, into, theirs, ours)
  merge_running(into, theirs, ours, now)
  save_state(into, ours)
  forget(from)
  return approximate
end

----------------------------------------------------------------------------------------- functions

local PART_FIELDS = 17

-- A part is what a batch holds of one site and one day.
local function part_named(
  ended, site, generation, window, timeout, max_pages, view, asked, day, week, pageviews, newest,
  paths, views, drops, visitors, runs, whose
)
  return {
    ended = ended, site = site, generation = generation, window = window, timeout = timeout,
    max_pages = max_pages, view = view, asked = asked, labels = labels_of(day, week),
    pageviews = pageviews, newest = newest, paths = paths, views = views, drops = drops,
    visitors = visitors, runs = runs, whose = whose,
    base = false, state = false, current = false, online = 0, -- as will be found
  }
end

local function check_hits(part)
  local hits = 0
  for r = 3, #part.runs, 3 do
    hits = hits + part.runs[r]
  end
  assert(hits == (part.whose and #part.whose or part.visitors), 'not that many hits')
end

-- The parts of a batch, and its newest hit; raises an error for what we did not pack. Behind the
-- version byte it is one long list of msgpack, of which each part is read by itself behind the
-- list's head of 3 bytes.
local function unpack_batch(packed, ids)
  local parts, newest, visitors, at = {}, 0, 0, fields_from(form_of(packed)) + 2
  repeat
    local part = part_named(cmsgpack.unpack_limit(packed, PART_FIELDS, at))
    check_hits(part)
    parts[#parts + 1], newest = part, max(newest, part.newest)
    visitors, at = visitors + part.visitors, part.ended
  until at == -1
  assert(#ids == visitors * 8, 'not that many visitors')
  return parts, newest
end

-- Unpacks a batch, and reads its producer's entry and the states that its hits were accepted under
-- by one command: each command costs more than what it does.
local function read_batch(batch, packed)
  local keys = {entry_key(batch.tag, batch.producer)}
  batch.parts, batch.newest = unpack_batch(packed, batch.ids)
  for n, part in ipairs(batch.parts) do
    part.base = base_of(batch.tag, part.site, part.generation)
    keys[n + 1] = part.base .. 'running'
  end
  batch.found = call('MGET', unpack_list(keys))
end

-- redis.call raises tables, Lua raises strings.
local function reason_of(problem)
  return type(problem) == 'table' and tostring(problem.err) or tostring(problem)
end

-- Parts that count into the same share its state; `packed`: see load_state.
local function enter(part, batch, base, packed)
  local state = batch.states[base]
  if not state then
    state = load_state(base, packed)
    batch.states[base] = state
  end
  part.base, part.state = base, state
end

-- Finds out what a part counts into: the generation that its hits were accepted under if that one
-- runs still, as its state tells.
local function find_base(part, batch, packed)
  enter(part, batch, part.base, packed)
  if part.state[CURRENT] == 0 then
    local counted, current = generations_of(batch.tag, part.site, part.generation)
    enter(part, batch, base_of(batch.tag, part.site, counted))
    part.current = current ~= counted and base_of(batch.tag, part.site, current)
    if part.current then
      load_state(part.current) -- an error about its form is to come before the first write
    end
  end
end

-- The counts of a generation that nothing is counted into. `asked` has a view, a window, and paths.
local function counts_at(base, asked, now)
  local state = load_state(base)
  return counts_of(base, state, asked.view, online_now(base, state, asked.window, now), asked.asked)
end

local function count_part(part, batch)
  local state, now = part.state, batch.now
  add_hits(part, batch)
  part.online = online_now(part.base, state, part.window, now)
  if part.online > state[PEAK] then
    state[PEAK], state[PEAK_AT] = part.online, now
  end
  keep_previous(part)
end

-- Writes the producer's entry and the states of all that was counted into, by one command too.
local function write_batch(batch)
  local written, n = {batch.entry.key, packed_entry(batch.entry)}, 2
  for base, state in pairs(batch.states) do
    local packed = packed_state(state)
    if packed ~= state[PACKED] then
      written[n + 1], written[n + 2], n = base .. 'running', packed, n + 2
      state[PACKED] = packed
    end
  end
  call('MSET', unpack_list(written))
end

local function answer_part(part, batch)
  if part.current then
    return counts_at(part.current, part, batch.now)
  end
  return counts_of(part.base, part.state, part.view, part.online, part.asked)
end

-- Counts a batch; answers why not, and then nothing was written. May raise an error. What a day's
-- first hit makes is probed before the first write, and everything is for a while after a batch was
-- rejected: a key of a wrong type stops a batch whole.
local function count_batch(batch)
  local parts, entry = batch.parts, batch.entry
  if batch.newest > batch.now + AHEAD_MS then
    return 'EARLY ' .. whole(batch.now) .. ' ' .. whole(batch.newest - AHEAD_MS)
  end
  for n, part in ipairs(parts) do
    find_base(part, batch, batch.found[n + 1])
    if entry.rejected ~= '' or part.labels[DAY] ~= part.state[DAY] then
      probe_part(part)
    end
  end
  touch_ledger(entry, batch.now)
  for _, part in ipairs(parts) do
    count_part(part, batch)
  end
  entry.seq = batch.seq
  write_batch(batch)
  for n, part in ipairs(parts) do
    batch.counts[n] = answer_part(part, batch)
  end
end

-- Answers for a batch that was counted before.
local function look_again(batch)
  write_entry(batch.entry, batch.now) -- so that a WAIT behind it counts
  for n, part in ipairs(batch.parts) do
    local base = current_base(batch.tag, part.site) or part.base
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
  local epoch, seq, now = tonumber(args[2]), tonumber(args[3]), store_time()
  local batch = {
    tag = keys[1], producer = args[1], seq = seq, now = now, ids = args[5], parts = false,
    newest = 0, found = false, entry = false, cursor = 1, states = {}, marks = {}, full = 0,
    counts = {},
  }
  check_form(form_of(args[4]), 'batch')
  local well, problem = pcall(read_batch, batch, args[4])
  local entry = entry_of(batch.tag, batch.producer, batch.found and batch.found[1])
  local again = seq <= entry.seq
  if entry.epoch > epoch then
    return redis.error_reply('FENCED ' .. whole(entry.epoch))
  elseif seq > entry.seq + 1 or entry.epoch < epoch then -- or the store has lost its beginning
    return redis.error_reply('GAP ' .. whole(entry.seq))
  elseif again and was_rejected(entry, seq) then
    return redis.error_reply('REJECTED and so it was before')
  end

  batch.entry = entry
  if well then
    well, problem = pcall(again and look_again or count_batch, batch)
  end
  local reason = not well and reason_of(problem)
  if reason and sub(reason, 1, 5) == 'FORM ' then -- nothing was written, and the batch is sound
    return redis.error_reply(reason)
  elseif reason then
    if not again then
      entry.seq, entry.rejected = seq, entry.rejected .. ':' .. whole(seq)
      write_entry(entry, now)
    end
    return redis.error_reply('REJECTED ' .. reason)
  elseif problem then
    return redis.error_reply(problem)
  end
  return {now, table.concat(batch.marks), batch.full, again and 1 or 0, unpack_list(batch.counts)}
end

-- open(tag; producer, epoch, seq or '') begins a producer's epoch and answers the seq of its last
-- batch here. FENCED, with the epoch in force, for one that is not later. With a seq it goes on in
-- this epoch, and passes a hole: batches up to that one are given up.
local function open(keys, args)
  local epoch, passed, now = tonumber(args[2]), tonumber(args[3]), store_time()
  local entry = entry_of(keys[1], args[1])
  if entry.epoch > epoch or entry.epoch == epoch and not passed then
    return redis.error_reply('FENCED ' .. whole(entry.epoch))
  end
  prune_ledger(keys[1], now)
  entry.epoch, entry.seq = epoch, max(entry.seq, passed or 0)
  write_entry(entry, now)
  return entry.seq
end

-- last_seq(tag; producer, epoch) answers the seq of the producer's last batch here, and notes that
-- the producer lives.
local function last_seq(keys, args)
  local epoch, entry = tonumber(args[2]), entry_of(keys[1], args[1])
  if entry.epoch > epoch then
    return redis.error_reply('FENCED ' .. whole(entry.epoch))
  end
  if entry.epoch == epoch then
    write_entry(entry, store_time())
  end
  return entry.seq
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
  local version = call('HGET', keys[1] .. ':sites', '#') or '0'
  if version == args[1] then
    return false
  end
  return {version, call('HGETALL', keys[1] .. ':sites'),
    call('HGETALL', keys[1] .. ':generations')}
end

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

local function is_generation(text)
  return #text < 16 and string.match(text, '^[1-9]%d*$')
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
    call('HINCRBY', base .. 'seeds', field, args[i + 2])
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

local function record_of(meta)
  return call('HMGET', meta, 'schema', 'copied', 'writes', 'converted')
end

-- installation(meta key) answers the forms in the installation's record.
local function installation(keys)
  return record_of(keys[1])
end

-- install(meta key; partitions, secret) makes the installation's record once. Answers {partitions,
-- secret, forms ...}.
local function install(keys, args)
  local meta = keys[1]
  if call('HSETNX', meta, 'schema', WRITES) == 1 then
    call('HSETNX', meta, 'writes', WRITES)
    call('HSETNX', meta, 'converted', WRITES)
  end
  call('HSETNX', meta, 'partitions', args[1])
  call('HSETNX', meta, 'secret', args[2])
  local kept = call('HMGET', meta, 'partitions', 'secret')
  return {kept[1], kept[2], unpack_list(record_of(meta))}
end

-- replace(meta key; field, value as it must be, new one; '' for none) changes the installation's
-- record. Answers {1 if it was changed now, the value that is there}.
local function replace(keys, args)
  local meta, field, before, after = keys[1], args[1], args[2], args[3]
  local found = call('HGET', meta, field) or ''
  if found ~= before or found == after then
    return {0, found}
  elseif after == '' then
    call('HDEL', meta, field)
  else
    call('HSET', meta, field, after)
  end
  return {1, after}
end

-- announce(meta key; worker, what it says of itself) registers a worker as living; without one it
-- only answers: {now, forms, worker -> instant and what it said, as a flat list}.
local function announce(keys, args)
  local key, now = keys[1] .. ':workers', store_time()
  if args[1] then
    call('HSET', key, args[1], whole(now) .. ' ' .. args[2])
  end
  for worker, said in pairs(read_hash(key)) do
    if (tonumber(string.match(said, '^%d+')) or 0) < now - WORKER_MS then
      call('HDEL', key, worker)
    end
  end
  return {now, record_of(keys[1]), call('HGETALL', key)}
end

-- A packed state or entry in another form; nothing for bytes that no version wrote.
local function converted(packed, form, name)
  local found, length = form_of(packed), #packed
  local is_state = sub(name, -8) == ':running'
  check_form(found, name)
  if found == UNVERSIONED then
    length = length + 1
  end
  if is_state and length ~= STATE_BYTES or not is_state and length < ENTRY_BYTES then
    return
  end
  local fields = sub(packed, fields_from(found))
  return form == UNVERSIONED and fields or string.char(form) .. fields
end

-- The generations of a site that may have a state: the newest ones, and of a number that somebody
-- has damaged those of which one may be found again.
local function generations_to_look_at(current)
  local last = is_generation(current) and tonumber(current) or MAX_RESETS
  return max(1, last - MAX_GENERATIONS), last
end

-- The keys of a partition that hold packed bytes: the entries of all producers by their names, then
-- the states of all sites; `most` of them, behind the one that was last. Answers the keys, and the
-- last of them, nothing at the end.
local function packed_keys(tag, last, most)
  local keys, producers, sites_of, generations = {}, {}, {}, read_hash(tag .. ':generations')
  local kind, name, generation = string.match(last, '^(%a)([^:]*):?(%d*)$')
  for producer in pairs(read_hash(tag .. ':ledger')) do
    producers[#producers + 1] = producer
  end
  for site in pairs(generations) do
    sites_of[#sites_of + 1] = site
  end
  table.sort(producers)
  table.sort(sites_of)
  for _, producer in ipairs(kind == 's' and {} or producers) do
    if producer ~= '#' and producer > (name or '') then
      if #keys == most then
        return keys, 'p' .. name
      end
      keys[#keys + 1], name, kind = entry_key(tag, producer), producer, 'p'
    end
  end
  if kind ~= 's' then
    name, generation = '', ''
  end
  for _, site in ipairs(sites_of) do
    if site >= name and not string.find(site, ':', 1, true) then
      local first, newest = generations_to_look_at(generations[site])
      if site == name then
        first = max(first, tonumber(generation) + 1)
      end
      for n = first, newest do
        if #keys == most then
          return keys, 's' .. name .. ':' .. generation
        end
        keys[#keys + 1] = base_of(tag, site, n) .. 'running'
        name, generation = site, whole(n)
      end
    end
  end
  return keys
end

-- convert(tag; form, where the last call ended or '', number of keys, 1 to write) looks at so many
-- keys that hold packed bytes, and brings them into a form. Answers {where it ended or nothing,
-- keys that are damaged and stay as they are, key, bytes before, key, ...} of those that are in
-- another form. What it has done it finds done: it may be repeated from anywhere.
local function convert(keys, args)
  local tag, form, written, damaged = keys[1], tonumber(args[1]), {}, {}
  local names, last = packed_keys(tag, args[2], tonumber(args[3]))
  local found = #names > 0 and call('MGET', unpack_list(names)) or {}
  local answer = {last or false, damaged}
  for n, name in ipairs(names) do
    local packed = found[n]
    local new = packed and converted(packed, form, name)
    if packed and not new then
      damaged[#damaged + 1] = name
    elseif new ~= packed then
      answer[#answer + 1], answer[#answer + 2] = name, packed
      written[#written + 1], written[#written + 2] = name, new
    end
  end
  if args[4] == '1' and #written > 0 then
    call('MSET', unpack_list(written))
  end
  return answer
end

-- restore(tag; name, bytes) puts packed bytes back as they were.
local function restore(keys, args)
  assert(sub(args[1], 1, #keys[1] + 1) == keys[1] .. ':', 'a key of this partition')
  call('SET', args[1], args[2])
end

-- adopt(tag; installation) makes the partition the installation's.
local function adopt(keys, args)
  return call('HSET', keys[1] .. ':ledger', '#', args[1])
end

-- probe(tag) answers {now, installation}. It writes nothing, but is refused whenever writes are.
local function probe(keys)
  return {store_time(), call('HGET', keys[1] .. ':ledger', '#')}
end

-- rehearse(tag) uses every command that any function uses, on keys that nothing else has: where one
-- is forbidden to this user, it is found out before a hit is.
local function rehearse(keys)
  local tag = keys[1] .. ':rehearsal:'
  local zset, other, hash, sketch = tag .. 'zset', tag .. 'other', tag .. 'hash', tag .. 'sketch'
  local text = tag .. 'text'
  call('GET', text)
  call('SET', text, 'a')
  call('MGET', text, text)
  call('MSET', text, 'a', text, 'a')
  call('ZADD', zset, 'GT', 1, 'a')
  call('ZADD', zset, 'XX', 'INCR', 1, 'a')
  call('ZINCRBY', zset, 1, 'a')
  call('ZMSCORE', zset, 'a')
  call('ZSCORE', zset, 'a')
  call('ZCARD', zset)
  call('ZCOUNT', zset, '-inf', '+inf')
  call('ZRANGE', zset, 0, -1)
  call('RENAME', zset, other)
  call('ZREM', other, 'b')
  call('ZREMRANGEBYSCORE', other, '-inf', 0)
  call('PEXPIRE', other, 1000)
  call('PTTL', other)
  call('TYPE', other)
  call('HSET', hash, 'a', 1)
  call('HSETNX', hash, 'a', 1)
  call('HGET', hash, 'a')
  call('HMGET', hash, 'a')
  call('HGETALL', hash)
  call('HEXISTS', hash, 'a')
  call('HINCRBY', hash, 'a', 1)
  call('HDEL', hash, 'b')
  call('PFADD', sketch, 'a')
  call('PFMERGE', sketch, sketch)
  call('PFCOUNT', sketch)
  call('EXISTS', zset)
  for _, key in ipairs({zset, other, hash, sketch, text}) do
    call('UNLINK', key)
  end
  return store_time()
end

-- While a library loads there is nothing but `redis`, not even pairs().
local function register(name, callback, flags)
  redis.register_function({
    function_name = '__library___' .. name, flags = flags or {},
    callback = function(keys, args)
      if not call then
        bind()
      end
      return callback(keys, args)
    end,
  })
end

register('record', record)
register('open', open)
register('last_seq', last_seq)
register('put_site', put_site)
register('reset', reset)
register('undo', undo)
register('seed', seed)
register('install', install)
register('installation', installation, {'no-writes'})
register('replace', replace)
register('announce', announce)
register('convert', convert)
register('restore', restore)
register('adopt', adopt)
register('probe', probe)
register('rehearse', rehearse)
register('counts', counts, {'allow-oom'}) -- PFCOUNT may write its cache, but it needs no memory
register('sites', sites, {'no-writes'})
register('done', done, {'no-writes'})
register('drops', drops, {'no-writes'})
register('days', days, {'no-writes'})
register('writes_' .. WRITES, function() return WRITES end, {'no-writes'}) -- for newer versions
