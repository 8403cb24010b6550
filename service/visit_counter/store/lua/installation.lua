-- The installation: what it is made of, its upgrades, and what a start checks. In this order:
--
--   record and workers  install, installation, replace, announce
--   forms of data       how packed bytes are brought from one form into another: convert, restore
--   checks              adopt, probe, rehearse

do

local WORKER_MS = 3 * DAY_MS
local MAX_GENERATIONS = 10000 -- of a site, that may have a state; older ones are long gone

--------------------------------------------------------------------------------- record and workers

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

-------------------------------------------------------------------------------------- forms of data

local function is_state(name)
  return sub(name, -8) == ':running'
end

-- A packed state or entry in another form; nothing for bytes that no version wrote.
local function converted(packed, form, name)
  local found = form_of(packed)
  check_form(found, name)
  local fields
  if is_state(name) then
    fields = fields_in(packed, form)
  elseif #packed >= ENTRY.bytes - 2 + fields_from(found) then
    fields = sub(packed, fields_from(found))
  end
  if fields and form > UNVERSIONED then
    fields = string.char(form) .. fields
  end
  return fields
end

-- Up to LONGER a site's `left` held the scores of `seen`, which was never below 0.
local function convert_visitors(base, packed, form)
  local seen, left = base .. 'seen', base .. 'left'
  local was_long, is_long = form_of(packed) <= LONGER, form <= LONGER
  if was_long == is_long then
    return
  end
  local from, low, high = left, 0, '+inf'
  if is_long then
    from, low, high = seen, '-inf', 0
    call('UNLINK', left)
  end
  local found = call('ZRANGEBYSCORE', from, low, high, 'WITHSCORES')
  for i = 1, #found, 2 do
    local member, score = found[i], math.abs(found[i + 1])
    if is_long then
      call('ZADD', seen, score, member)
      call('ZADD', left, score, member)
    elseif tonumber(call('ZSCORE', seen, member)) == score then
      call('ZADD', seen, -score, member)
      call('ZINCRBY', left, BYE_MS, member)
    end
  end
  call('PEXPIRE', left, DAY_MS)
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
-- keys that hold packed bytes, and brings them, and sites' visitors, into a form. Answers {where it
-- ended or nothing, keys that are damaged and stay as they are, key, bytes before, key, ...} of
-- those that are in another form. What it has done it finds done: it may be repeated from anywhere.
local function convert(keys, args)
  local tag, form, written, damaged = keys[1], tonumber(args[1]), {}, {}
  local names, last = packed_keys(tag, args[2], tonumber(args[3]))
  local found = #names > 0 and call('MGET', unpack_list(names)) or {}
  local answer, writes = {last or false, damaged}, args[4] == '1'
  for n, name in ipairs(names) do
    local packed = found[n]
    local new = packed and converted(packed, form, name)
    if packed and not new then
      damaged[#damaged + 1] = name
    elseif new ~= packed then
      answer[#answer + 1], answer[#answer + 2] = name, packed
      written[#written + 1], written[#written + 2] = name, new
      if writes and is_state(name) then
        convert_visitors(sub(name, 1, -8), packed, form)
      end
    end
  end
  if writes and #written > 0 then
    call('MSET', unpack_list(written))
  end
  return answer
end

-- restore(tag; name, bytes) puts packed bytes back as they were.
local function restore(keys, args)
  assert(sub(args[1], 1, #keys[1] + 1) == keys[1] .. ':', 'a key of this partition')
  call('SET', args[1], args[2])
end

--------------------------------------------------------------------------------------------- checks

-- adopt(tag; installation) makes the partition the installation's.
local function adopt(keys, args)
  return call('HSET', keys[1] .. ':ledger', '#', args[1])
end

-- probe(tag) answers {now, installation, which commands are forbidden, as an error, or nothing}. It
-- writes nothing, but is refused whenever writes are.
local function probe(keys)
  local denied, kept = denial(keys[1]), redis.pcall('HGET', keys[1] .. ':ledger', '#')
  local failed = type(kept) == 'table' and kept
  if denied and (failed or stopped or string.find(denied, "'time'", 1, true)) then
    return redis.error_reply(denied)
  end
  return failed or {store_time(), kept, denied or false}
end

-- rehearse(tag) uses every command that any function uses, on keys that nothing else has: where one
-- is forbidden to this user, it is found out before a hit is.
local function rehearse(keys)
  local denied = denial(keys[1])
  if denied then
    return redis.error_reply(denied)
  end
  local tag = keys[1] .. ':rehearsal:'
  local zset, other, hash, sketch = tag .. 'zset', tag .. 'other', tag .. 'hash', tag .. 'sketch'
  local text = tag .. 'text'
  call('GET', text)
  call('SET', text, 'a')
  call('MGET', text, text)
  call('MSET', text, 'a', text, 'a')
  call('ZADD', zset, 'GT', 1, 'a')
  call('ZADD', zset, 'XX', 'INCR', 1, 'a')
  call('ZRANGEBYSCORE', zset, 0, 0)
  call('ZREMRANGEBYRANK', zset, 5, 5)
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
  call('PERSIST', other)
  call('PTTL', other)
  call('TYPE', other)
  call('HSET', hash, 'a', 1)
  call('HSETNX', hash, 'a', 1)
  call('HGET', hash, 'a')
  call('HMGET', hash, 'a')
  call('HGETALL', hash)
  call('HINCRBY', hash, 'a', 1)
  call('HDEL', hash, 'b')
  call('HLEN', hash)
  call('PFADD', sketch, 'a')
  call('PFMERGE', sketch, sketch)
  call('PFCOUNT', sketch)
  call('EXISTS', zset)
  for _, key in ipairs({zset, other, hash, sketch, text}) do
    call('UNLINK', key)
  end
  return store_time()
end

register('install', install)
register('installation', installation, {'no-writes'})
register('replace', replace)
register('announce', announce)
register('convert', convert)
register('restore', restore)
register('adopt', adopt)
register('probe', probe)
register('rehearse', rehearse)
register('writes_' .. WRITES, function() return WRITES end, {'no-writes'}) -- for newer versions

end
