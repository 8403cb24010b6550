#!lua name=__library__

-- The beginning of the function library: the data model, and what more than one of the other files
-- uses, such as periods, the layout of packed bytes, and a site's state. All files together are one
-- source, loaded in this order (PARTS in store/libraries.py):
--
--   keys.lua          the beginning
--   visitors.lua      when a visit begins, who is online
--   pages.lua         views of paths, and which have a place
--   counting.lua      hits and counts: record, open, last_seq, counts
--   sites.lua         for admins: sites, put_site, done, reset, seed, drops, top, days
--   undo.lua          the undo of a reset: undo
--   installation.lua  upgrades and checks: install, installation, replace, announce, convert,
--                     restore, adopt, probe, rehearse
--
-- Lua allows 200 local variables at a time. Therefore each of the other files is one `do ... end`
-- block (not indented): its locals end with it, and what a later file uses is declared before it.
--
-- Every key of the store is named in these files only.
--
-- A site lives in one of 64 partitions; KEYS[1] of every call is the partition's tag, such as
-- `vc:{p07}`, and all keys begin with it, so that one call stays on one shard. No key is named like
-- a tag: a slot that is being migrated key by key therefore refuses every call (ASK) before it
-- runs. Instants are milliseconds. A function's writes are one unit in the append-only file and in
-- replication.
--
--   <tag>:sites               hash  site -> settings (JSON); `#` -> version, raised by every change
--   <tag>:generations         hash  site -> current generation; site:n -> "undoing", then "undone"
--                                   and how many numbers of visitors became approximate
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
--   seen                      zset  visitor (8 bytes) -> last view or here; below 0 for one who has
--                                   said bye since and is not online             expires when quiet
--   left                      zset  those who said bye -> when, as long as a late view may need it
--                                                                                expires when quiet
--   day:2026-11               hash  22p 22v 22u -> pageviews, visits, frozen visitors of a day that
--                                   has ended; 22a: those visitors are an approximate sum;
--                                   22b: of them, those of a sketch that is gone
--   week:2026                 hash  11-16p ...     of the week that begins on that day
--   month:2026, year          hash  11p ..., 2026p ...
--   seeds                     hash  <kind>:<label>:<p|v|u> -> what an admin added
--   visitors:<kind>:<label>   HLL   until 8 days after a newer label froze it
--   visitors:total            HLL   for ever
--   pages                     zset  path -> pageviews, at most max_pages and `(other)`
--   candidates                hash  path that waits for a place -> views, minute of the last, and
--                                   of each network that viewed it two bytes of a hash, as text;
--                                   `#` -> day on which all were looked through    91 days after
--   idle                      hash  where pages are full, page -> views and since which minute they
--                                   are known; `#` -> minute and rank of the last look     91 days
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
local LONGER = 5 -- the last form in which a state had numbers that nobody needs

local DAY_MS = 86400000
local DROPS_MS = 431 * DAY_MS -- 400 days after the last day of a month
local MAX_RESETS = 1000 -- of a site whose generation is looked for
local METRICS = {'p', 'v', 'u'}
local MAX_IDS = 1000000 -- visitors in `seen`
local LATE_MS = 3600000 -- ids stay this much longer, so that late hits still find their visit
local BYE_MS = 2000 -- a bye younger than this may have been overtaken by the next page's view

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

-- What is set in a number for a period.
local function bit_of(n)
  return 2 ^ (n - 1)
end

local function is_set(bits, n)
  return math.floor(bits / bit_of(n)) % 2 == 1
end

local function set_bit(bits, n, wanted)
  local added = (wanted and bit_of(n) or 0) - (is_set(bits, n) and bit_of(n) or 0)
  return bits + added
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
local APPROXIMATE = add_number(STATE) -- 2^(n - 1) for each period n with a sum of visitors
local TRIMMED = add_number(STATE) -- instant at which `seen` and `left` were trimmed
local SEEDED = add_number(STATE) -- 1: there are seeds
local LEFT = add_number(STATE) -- 1: there may be `left`
local CURRENT = add_number(STATE) -- 1: the generation runs
local SKETCHED = add_number(STATE) -- who was seen since then is in the running day's sketches
local CHANGED = add_number(STATE) -- 2^(n - 1) for each period n whose sketch is to be read anew
local READ = add_number(STATE) -- when sketches may be read next: see READ_MS in counting.lua
local PACKED = STATE.fields + 1 -- the bytes in the store; false: their labels are not the state's

local STATE_FIELDS, STATE_FORMAT = STATE.format, 'B' .. STATE.format

-- A producer's entry in the ledger. After these fields come the numbers of batches that were
-- rejected, each with a colon before it.
local ENTRY = new_layout()
add_number(ENTRY) -- epoch
add_number(ENTRY) -- number of its last batch
add_number(ENTRY) -- day of that

-- What is used all the time: a global costs a search in two tables each time.
local call, max, min, sub, byte, pack, unpack_from, unpack_list

local function bind()
  call, max, min, sub, byte = redis.call, math.max, math.min, string.sub, string.byte
  pack, unpack_from, unpack_list = struct.pack, struct.unpack, unpack
end

-- All commands that the functions run: docs/how-to/stores.md has the rules (ACL) that allow them.
local COMMANDS = {
  'EXISTS', 'GET', 'HDEL', 'HGET', 'HGETALL', 'HINCRBY', 'HLEN', 'HMGET', 'HSET', 'HSETNX', 'MGET',
  'MSET', 'PERSIST', 'PEXPIRE', 'PFADD', 'PFCOUNT', 'PFMERGE', 'PTTL', 'RENAME', 'SET', 'TIME',
  'TYPE', 'UNLINK', 'ZADD', 'ZCARD', 'ZCOUNT', 'ZINCRBY', 'ZMSCORE', 'ZRANGE', 'ZRANGEBYSCORE',
  'ZREM', 'ZREMRANGEBYRANK', 'ZREMRANGEBYSCORE', 'ZSCORE',
}

-- Those of them that the store's access rules forbid to this user, as an error in the server's
-- words; nothing if there are none. A server that has renamed a command does not know it.
local function denial(tag)
  local key, denied, unknown, keys_denied = tag .. ':rehearsal', {}, {}, false
  for _, command in ipairs(COMMANDS) do
    local known, allowed = pcall(redis.acl_check_cmd, command, key, key) -- both may be keys
    if not known then
      unknown[#unknown + 1] = "'" .. command:lower() .. "'"
    elseif not allowed and redis.acl_check_cmd(command, tag, tag) then -- as FCALL itself
      keys_denied = true
    elseif not allowed then
      denied[#denied + 1] = "'" .. command:lower() .. "'"
    end
  end
  if #unknown > 0 then
    return 'ERR unknown command ' .. table.concat(unknown, ', ')
  elseif #denied > 0 then
    return 'NOPERM This user has no permissions to run the ' .. table.concat(denied, ', ')
      .. ' command' .. (#denied > 1 and 's' or '')
  end
  return keys_denied and 'NOPERM This user has no permissions to access the keys of a partition'
end

-- Whether access rules stopped a call in its middle. Until they allow all commands again nothing is
-- counted: each retry would write again what comes before that one.
local stopped = false

-- Answers the error while that is so; false else.
local function forbidden(tag)
  local denied = stopped and denial(tag)
  stopped = denied and true or false
  return denied
end

-- Whether that is what an error says, in the words of Valkey or of Redis 7.0; notes it.
local function is_denial(reason)
  local found = string.find(reason, 'ACL failure in script', 1, true)
    or string.find(reason, 'The user executing the script', 1, true)
  stopped = stopped or found ~= nil
  return found
end

local function store_time()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function base_of(tag, site, generation)
  return tag .. ':' .. site .. ':' .. generation .. ':'
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

-- The fields of a packed state in another form; nothing for bytes that no version wrote. Up to
-- LONGER a state had, in the place of APPROXIMATE, numbers of changes of its eight sketches, and it
-- lacked what comes after SKETCHED.
local function fields_in(packed, form)
  local found, changes = form_of(packed), string.rep('\0', 8 * TOTAL)
  local fields = sub(packed, fields_from(found))
  local shown, kept = STATE.last_byte[PEAK_AT] - 1, STATE.last_byte[SKETCHED] - 1
  local is_long = found <= LONGER
  if #fields ~= (is_long and kept - 8 + #changes or STATE.bytes - 1) then
    return
  elseif is_long == (form <= LONGER) then
    return fields
  elseif is_long then
    return sub(fields, 1, shown) .. string.rep('\0', 8) .. sub(fields, shown + #changes + 1)
      .. pack('<dd', bit_of(TOTAL + 1) - 1, 0)
  end
  local left = STATE.first_byte[LEFT] - 1
  return sub(fields, 1, shown) .. changes .. sub(fields, shown + 9, left - 1) .. pack('<d', 1)
    .. sub(fields, left + 8, kept)
end

-- `packed`: as MGET has found it, which finds nothing where GET raises an error for a wrong type.
local function load_state(base, packed)
  packed = packed or call('GET', base .. 'running')
  if not packed then
    return blank_state()
  end
  local form = form_of(packed)
  check_form(form, base .. 'running')
  local state = form > LONGER and {unpack_from(STATE_FIELDS, packed, 2)}
    or {unpack_from(STATE_FIELDS, fields_in(packed, WRITES))}
  state[PACKED] = form == WRITES and packed
  return state
end

local function packed_state(state)
  return pack(STATE_FORMAT, WRITES, unpack_list(state, 1, PACKED - 1))
end

local function save_state(base, state)
  state[PACKED] = packed_state(state)
  call('SET', base .. 'running', state[PACKED])
end

local function set_period(state, n, label, p, v, u, approximate)
  local i = NUMBERS[n]
  state[n], state[i], state[i + 1], state[i + 2] = label, p, v, u
  state[APPROXIMATE] = set_bit(state[APPROXIMATE], n, approximate)
  state[CHANGED], state[PACKED] = set_bit(state[CHANGED], n, false), false
end

local function remember(base, name, gone_at)
  call('ZADD', base .. 'index', gone_at or '+inf', name)
end

local function entry_key(tag, producer)
  return tag .. ':ledger:' .. producer
end

local function is_generation(text)
  return #text < 16 and string.match(text, '^[1-9]%d*$')
end

-- Makes a function of the library; each file does so at its end. While a library loads there is
-- nothing but `redis`, not even pairs().
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
