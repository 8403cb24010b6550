-- Hits and counts: what a hit does, and what a site shows then. In this order:
--
--   ledger     what each producer has sent: a batch counts once
--   periods    how one ends, late hits, numbers and sketches
--   drops
--   counts     what is shown of a site
--   batches    what comes in: read, checked, counted, written, answered
--   functions  record, open, last_seq, counts

-- Also for sites.lua.
local freeze, settle, ended_numbers, forget_previous, raise, read_sketches

do

local SKETCH_MS = 8 * DAY_MS -- that a sketch lives after its period has ended
local LASTS_MS = {day = 2 * DAY_MS, week = 8 * DAY_MS, month = 32 * DAY_MS, year = 367 * DAY_MS}
local LEDGER_DAYS = 400
local REMEMBERED = 256 -- more batches than are ever sent before the first one's answer is read
local AHEAD_MS = 2000 -- later than now, a hit would end periods before their time
local READ_MS = 500 -- between two times that a site's changed sketches are read ...
local READS_AHEAD_MS = 1500 -- ... and so much may be read ahead, for sites with few visitors

--------------------------------------------------------------------------------------------- ledger

local ENTRY_FIELDS, ENTRY_FORMAT = ENTRY.format, 'B' .. ENTRY.format

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

-------------------------------------------------------------------------------------------- periods

-- The visitors in a period's sketch, and those of one before it that has expired.
local function visitors_in(base, kind, label)
  local hash, field = place(kind, label)
  local gone = call('HGET', base .. hash, field .. 'b')
  return call('PFCOUNT', sketch_of(base, kind, label)) + tonumber(gone or 0)
end

-- The number of an ended period no longer moves with its sketch, which may then expire.
function freeze(base, kind, label, now, life)
  local sketch = sketch_of(base, kind, label)
  if call('EXISTS', sketch) == 0 then
    return
  end
  local hash, field = place(kind, label)
  local known = tonumber(call('HGET', base .. hash, field .. 'u') or 0)
  local visitors = max(known, visitors_in(base, kind, label))
  life = life or SKETCH_MS
  call('HSET', base .. hash, field .. 'u', visitors)
  call('PEXPIRE', sketch, life)
  remember(base, 'visitors:' .. kind .. ':' .. label, now + life)
end

-- Notes the running period's pageviews and visits where those of ended periods are.
function settle(base, state, n)
  local hash, field = place(KINDS[n], state[n])
  local i = NUMBERS[n]
  call('HSET', base .. hash, field .. 'p', whole(state[i]), field .. 'v', whole(state[i + 1]))
end

-- The pageviews, visits and visitors of a period that does not run, and whether the visitors are an
-- approximate sum.
function ended_numbers(base, kind, label)
  local hash, field = place(kind, label)
  local found = call('HMGET', base .. hash, field .. 'p', field .. 'v', field .. 'u', field .. 'a')
  return tonumber(found[1] or 0), tonumber(found[2] or 0),
    tonumber(found[3] or call('PFCOUNT', sketch_of(base, kind, label))), found[4] == '1'
end

-- Has the numbers of the period before the running one read anew.
function forget_previous(state, n)
  if n ~= YEAR then
    state[n + 1], state[PACKED] = NEVER[n], false
  end
end

-- Begins a period, or goes on with one that a wrong clock, or a new time zone, had ended or begun
-- already. Its sketch may have expired meanwhile: then who was there before may be counted twice.
local function begin_period(part, n, now)
  local base, state, kind, label = part.base, part.state, KINDS[n], part.labels[n]
  local p, v, u, approximate = ended_numbers(base, kind, label)
  if u > 0 and call('PERSIST', sketch_of(base, kind, label)) == 0
    and call('EXISTS', sketch_of(base, kind, label)) == 0 then
    local hash, field = place(kind, label)
    call('HSET', base .. hash, field .. 'a', 1, field .. 'b', u)
    approximate = true
  end
  set_period(state, n, label, p, v, u, approximate)
  forget_previous(state, n) -- it may have been read before it ended
  remember(base, (place(kind, label)))
  remember(base, 'visitors:' .. kind .. ':' .. label)
  if n == DAY then
    -- As the hits were named, also where their clock was ahead: who came later came today.
    state[BEGAN], state[SKETCHED] = part.labels[WEEK], max(part.newest, state[SKETCHED])
    call('ZREMRANGEBYSCORE', base .. 'index', '-inf', now)
  end
end

-- The first hit of a newer label ends the running period of that kind.
local function turn_periods(part, now)
  local base, state, labels = part.base, part.state, part.labels
  if labels[DAY] == state[DAY] and labels[WEEK] == state[WEEK] then
    return
  end
  for n = DAY, YEAR, 2 do
    if labels[n] > state[n] then
      if state[n] ~= NEVER[n] then
        settle(base, state, n)
        freeze(base, KINDS[n], state[n], now)
      end
      begin_period(part, n, now)
    end
  end
end

-- Whether the store's clock has gone back since the last hit.
local function is_ahead(state, now)
  return max(state[LAST], state[SINCE], state[PEAK_AT]) > now
end

local function correct_instants(state, now)
  state[SINCE], state[LAST] = min(state[SINCE], now), min(state[LAST], now)
  state[PEAK_AT], state[READ], state[PACKED] = min(state[PEAK_AT], now), 0, false
end

-- The store's clock has gone back since the last hit. Running periods that begin later than now are
-- set aside until their time comes, and those of this hit go on.
local function go_back(part, now)
  local base, state, labels = part.base, part.state, part.labels
  local ahead = max(state[LAST], state[SINCE], state[PEAK_AT]) - now
  for n = DAY, YEAR, 2 do
    if labels[n] < state[n] then
      settle(base, state, n)
      freeze(base, KINDS[n], state[n], now, ahead + LASTS_MS[KINDS[n]] + SKETCH_MS)
      begin_period(part, n, now)
    end
  end
  state[SKETCHED] = now + 1 -- whoever was seen then may be in another day's
  correct_instants(state, now)
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
  call('HSET', base .. hash, field .. 'u', max(frozen or 0, visitors_in(base, kind, label)))
end

-- Adds to a running sketch; answers whether that changed it.
local function add_to_sketch(sketch, state, n, visitors)
  local changed = call('PFADD', sketch, unpack_list(visitors)) == 1
  if changed and not is_set(state[CHANGED], n) then
    state[CHANGED] = state[CHANGED] + bit_of(n)
  end
  return changed
end

-- Reads the visitors of running periods from the sketches that have changed. To read a large one
-- takes four times as long as to add to it: see READ_MS for how often a busy site's are.
function read_sketches(base, state)
  for n = DAY, TOTAL do
    if is_set(state[CHANGED], n) then
      local found, u
      if n == TOTAL then
        found = call('PFCOUNT', base .. 'visitors:total')
      elseif is_set(state[APPROXIMATE], n) then
        found = visitors_in(base, KINDS[n], state[n])
      else
        found = call('PFCOUNT', sketch_of(base, KINDS[n], state[n]))
      end
      u = NUMBERS[n] + 2
      state[u] = max(state[u], found)
    end
  end
  state[CHANGED], state[PACKED] = 0, false
end

-- Whoever changes nothing in the day's sketch is in the longer periods' sketches already, since
-- every visitor of the day was added to all of them: to those of the labels the day began with.
local function add_visitors(part, visitors, now)
  local base, state, labels = part.base, part.state, part.labels
  for n = DAY, YEAR, 2 do
    local kind, label = KINDS[n], labels[n]
    if label < state[n] then
      add_late_visitors(base, kind, label, visitors, now)
      if n == DAY then -- which may have come back for an hour after the running one had begun
        state[SKETCHED] = max(state[SKETCHED], part.newest + 1)
      end
    else
      local changed = add_to_sketch(sketch_of(base, kind, label), state, n, visitors)
      if n == DAY and not changed and labels[WEEK] == state[BEGAN] then
        return
      end
    end
  end
  add_to_sketch(base .. 'visitors:total', state, TOTAL, visitors)
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

function raise(state, n, pageviews, visits)
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

---------------------------------------------------------------------------------------------- drops

local function add_drops(base, day, drops, now)
  local name = 'drops:' .. sub(day, 1, 7)
  for i = 1, #drops, 2 do
    call('HINCRBY', base .. name, sub(day, 9) .. ':' .. drops[i], drops[i + 1])
  end
  call('PEXPIRE', base .. name, DROPS_MS)
  remember(base, name, now + DROPS_MS)
end

--------------------------------------------------------------------------------------------- counts

local VIEW_FROM, VIEW_TO = STATE.first_byte[DAY], STATE.last_byte[YEAR]
local SHOWN_FROM, SHOWN_TO = STATE.first_byte[NUMBERS[DAY]], STATE.last_byte[APPROXIMATE]

local function labels_in(view)
  return {unpack_from(VIEW, view)}
end

-- Whether the state has all periods of a view.
local function is_kept(state, view)
  return state[PACKED] and sub(state[PACKED], VIEW_FROM, VIEW_TO) == view
end

-- The pageviews, visits and visitors of the period that has number n as of now, and whether the
-- visitors are an approximate sum.
local function numbers_of(base, state, n, label)
  for kept = n - (n + 1) % 2, n + n % 2 do -- it may run still, or it has just ended
    if label == state[kept] then
      local i = NUMBERS[kept]
      return state[i], state[i + 1], state[i + 2], is_set(state[APPROXIMATE], kept)
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
-- from the day's pageviews up to APPROXIMATE, in its order: what is at i there is at COUNTED + i.
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
-- never below 0; since, last hit, peak, its instant; 2^(n - 1) for each period n whose visitors are
-- an approximate sum; of each seed the numbers of its period and its
-- metric, and the amount; pageviews of the paths. As a rule most of it lies in the packed state.
local function counts_of(base, state, view, online, paths)
  if state[SEEDED] == 0 and not paths and is_kept(state, view) then
    return pack('<dd', online, 0) .. sub(state[PACKED], SHOWN_FROM, SHOWN_TO)
  end
  view = labels_in(view)
  local counts = {online, 0, unpack_list(state, NUMBERS[DAY], APPROXIMATE)}
  for n = DAY, YEAR do
    local p, v, u, approximate = numbers_of(base, state, n, view[n])
    local i, bits = COUNTED + NUMBERS[n], COUNTED + APPROXIMATE
    counts[i], counts[i + 1], counts[i + 2] = p, v, u
    counts[bits] = set_bit(counts[bits], n, approximate)
  end
  if state[SEEDED] == 1 then
    add_seeds(base, view, counts)
  end
  for _, path in ipairs(paths or {}) do
    counts[#counts + 1] = (views_of(base, path))
  end
  return pack('<' .. string.rep('d', #counts), unpack_list(counts))
end

-- The counts of a generation that nothing is counted into. `asked` has a view, a window, and paths.
local function counts_at(base, asked, now)
  local state = load_state(base)
  if state[CHANGED] > 0 then
    read_sketches(base, state)
  end
  if is_ahead(state, now) then
    correct_instants(state, now)
  end
  return counts_of(base, state, asked.view, online_now(base, asked.window, now), asked.asked)
end

-------------------------------------------------------------------------------------------- batches

local function labels_of(day, week)
  return {day, false, week, false, sub(day, 1, 7), false, sub(day, 1, 4)}
end

local PART_FIELDS = 18 -- from form 6 on; before it there were no `networks`
-- How msgpack writes the length of bytes, by their head.
local BYTES_LENGTH = {[0xc4] = '>B', [0xc5] = '>I2', [0xc6] = '>I4'}

-- A part is what a batch holds of one site and one day.
local function part_named(
  ended, site, generation, window, timeout, max_pages, view, asked, day, week, pageviews, newest,
  paths, views, drops, visitors, runs, whose, networks
)
  return {
    ended = ended, site = site, generation = generation, window = window, timeout = timeout,
    max_pages = max_pages, view = view, asked = asked, labels = labels_of(day, week),
    pageviews = pageviews, newest = newest, paths = paths, views = views, drops = drops,
    visitors = visitors, runs = runs, whose = whose, networks = networks,
    base = false, state = false, current = false, online = 0, latest = 0, -- as will be found
  }
end

local function check_hits(part)
  local hits = 0
  for r = 3, #part.runs, 3 do
    hits = hits + part.runs[r]
  end
  assert(hits == (part.whose and #part.whose or part.visitors), 'not that many hits')
end

-- The bytes that msgpack has at a place, and where they end: cmsgpack does not know its type for
-- them.
local function bytes_at(payload, at)
  local length, begins = unpack_from(BYTES_LENGTH[byte(payload, at)], payload, at + 1)
  return sub(payload, begins, begins + length - 1), begins + length
end

-- The parts of a batch, its newest hit, and the visitors of all parts in their order, 8 bytes each;
-- raises an error for what we did not pack. Behind the version byte a payload is a pair of msgpack,
-- whose head is 1 byte: the parts and the visitors. Behind a version byte of their own, the parts
-- are one long list of msgpack, of which each is read by itself behind the list's head of 3 bytes.
local function unpack_batch(payload)
  local packed, ended = bytes_at(payload, fields_from(form_of(payload)) + 1)
  local ids = bytes_at(payload, ended)
  check_form(form_of(packed), 'batch')
  local parts, newest, visitors, at = {}, 0, 0, fields_from(form_of(packed)) + 2
  local fields = form_of(packed) < 6 and PART_FIELDS - 1 or PART_FIELDS
  repeat
    local part = part_named(cmsgpack.unpack_limit(packed, fields, at))
    check_hits(part)
    parts[#parts + 1], newest = part, max(newest, part.newest)
    visitors, at = visitors + part.visitors, part.ended
  until at == -1
  assert(#ids == visitors * 8, 'not that many visitors')
  return parts, newest, ids
end

-- Unpacks a batch, and reads its producer's entry and the states that its hits were accepted under
-- by one command: each command costs more than what it does.
local function read_batch(batch, payload)
  local keys = {entry_key(batch.tag, batch.producer)}
  batch.parts, batch.newest, batch.ids = unpack_batch(payload)
  for n, part in ipairs(batch.parts) do
    part.base = base_of(batch.tag, part.site, part.generation)
    keys[n + 1] = part.base .. 'running'
  end
  batch.found = call('MGET', unpack_list(keys))
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
  for _, name in ipairs({'seeds', 'candidates', 'idle'}) do
    expect(base .. name, 'hash')
  end
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
      add_pages(part, batch.now)
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

-- Hits count into the generation they were accepted under, but for one that was undone, and for one
-- that nobody knows any more, since a failover has lost the reset that began it.
local function generations_of(tag, site, accepted)
  local found = call('HMGET', tag .. ':generations', site, site .. ':' .. accepted)
  local current = tonumber(found[1] or accepted)
  local gone = found[2] or accepted > current
  return gone and current or accepted, current
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

local function count_part(part, batch)
  local state, now = part.state, batch.now
  if is_ahead(state, now) then
    go_back(part, now)
  end
  add_hits(part, batch)
  if state[CHANGED] > 0 and state[READ] <= now + READS_AHEAD_MS then
    read_sketches(part.base, state)
    state[READ] = max(state[READ], now) + READ_MS
  end
  part.online = online_now(part.base, part.window, now)
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

-- The hits of a part that are later than an instant, by a clock that was ahead, count as of it.
local function count_as_of(part, latest, view)
  local labels = labels_in(view)
  part.view, part.labels = view, labels_of(labels[DAY], labels[WEEK])
  part.latest, part.newest = latest, latest
end

-- Counts a batch; answers why not, and then nothing was written. May raise an error. What a day's
-- first hit makes is probed before the first write, and everything is for a while after a batch was
-- rejected: a key of a wrong type stops a batch whole.
local function count_batch(batch)
  local parts, entry = batch.parts, batch.entry
  if batch.newest > batch.now + AHEAD_MS and not batch.views then
    return 'EARLY ' .. whole(batch.now) .. ' ' .. whole(batch.newest - AHEAD_MS)
  end
  for n, part in ipairs(parts) do
    part.latest = batch.now
    if part.newest > batch.now + AHEAD_MS then
      count_as_of(part, min(batch.views[1], batch.now), batch.views[n + 1])
    end
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

------------------------------------------------------------------------------------------ functions

-- record(tag; producer, epoch, seq, payload, views) counts one batch, all or nothing, and only
-- once: a producer numbers its batches of a partition 1, 2, 3 ... and the ledger, written in the
-- same unit as the counts, knows the last. A batch that comes again (DUP) only reads.
-- payload: as it lies in the spool, see unpack_batch. views: msgpack of an instant that is not
-- later than now and of the labels then for each part: hits later than now count as of it.
-- Without them such a batch is refused (EARLY). Answers {now, what became of each hit with a
-- visitor (PLAIN, NEW or HELD, one after the other), hits held because a site's set is full,
-- counts of the first part's site, of the second's ...}.
local function record(keys, args)
  local epoch, seq, now = tonumber(args[2]), tonumber(args[3]), store_time()
  local batch = {
    tag = keys[1], producer = args[1], seq = seq, now = now, ids = '', parts = false,
    newest = 0, found = false, entry = false, cursor = 1, states = {}, marks = {}, full = 0,
    counts = {}, views = args[5] and cmsgpack.unpack(args[5]),
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

  local denied = forbidden(batch.tag)
  if denied then
    return redis.error_reply(denied)
  end
  batch.entry = entry
  if well then
    well, problem = pcall(again and look_again or count_batch, batch)
  end
  local reason = not well and reason_of(problem)
  if reason and sub(reason, 1, 5) == 'FORM ' then -- nothing was written, and the batch is sound
    return redis.error_reply(reason)
  elseif reason and is_denial(reason) then
    return redis.error_reply(forbidden(batch.tag) or 'NOPERM ' .. reason)
  elseif reason then
    if not again then
      entry.seq, entry.rejected = seq, entry.rejected .. ':' .. whole(seq)
      write_entry(entry, now)
    end
    return redis.error_reply('REJECTED ' .. reason)
  elseif problem then
    return redis.error_reply(problem)
  end
  return {now, table.concat(batch.marks), batch.full, unpack_list(batch.counts)}
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

register('record', record)
register('open', open)
register('last_seq', last_seq)
register('counts', counts, {'allow-oom'}) -- PFCOUNT may write its cache, but it needs no memory

end
