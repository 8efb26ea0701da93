"""What the scripts of RedisStore have in common: the keys, and the parts in Lua that they are built of.

The keys, all in one slot of a cluster by the hash tag of the prefix, and all with a time to live:

====================  =======================================================================
``:log``              stream of the events; its groups are the groups of handlers
``:last``             the last number that was given to a position or a cursor
``:bytes``            the bytes of all bodies in the log
``:sessions``         sorted set: session, and when (in ms) it ends
``:bindings``         sorted set: subject, and when (in ms) its binding ends
``:session:<id>``     hash: user and context of whoever opened it
``:bound:<subject>``  the session that it is bound to
``:topic:<topic>``    sorted set: position of an event, and the cursor of its appearance there
``:late:<position>``  hash: session and rank of an event that was led there after its arrival
``:key:<key>``        position of the event that came with this key
``:hints``            a channel: topics, one a line
====================  =======================================================================

A position is a time, in milliseconds and three more digits, so that the log can be cut by age and that
positions go on rising after everything was past its time and gone. Lua's numbers carry it until 2255.

The first five are passed as KEYS. The others are named after what only the script can know (which events
are under a topic), so they are built from the prefix: the slot is the same.
"""

from __future__ import annotations

from attrs import field, frozen

__all__ = ["CONSUMERS", "EVENTS", "GROUPS", "SHARED_KEYS", "TIME", "WRITES", "Script"]

SHARED_KEYS = ("log", "last", "bytes", "sessions", "bindings")


@frozen
class Script:
    """A script and the digest that Redis knows it by."""

    source: bytes = field(repr=False)
    sha: bytes


TIME = """
local LOG, LAST, BYTES, SESSIONS, BINDINGS = unpack(KEYS)
local root, ttl, takeover = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local server = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- The server's clock is the same for every process; another one is given in tests only.
local now = tonumber(ARGV[4]) or server
local oldest = math.max((now - ttl + 1) * 1000, 1)

local function text(number) return string.format('%.0f', number) end
local function name(kind, id) return root .. ':' .. kind .. ':' .. id end
local function alive(position) return tonumber(position) >= oldest end
"""

EVENTS = """
local UNROUTED = 1000

local function next_number()
  local last = tonumber(redis.call('GET', LAST) or 0)
  local number = text(math.max(last + 1, now * 1000))
  redis.call('SET', LAST, number, 'PX', ttl)
  return number
end

-- rank: the place among the subjects of the one that led to the session; 0 if the event named it.
local function load(position)
  local row = redis.call('XRANGE', LOG, position, position)[1]
  if not row then return nil end
  local event, fields, count = {ranks = {}}, row[2], 0
  for i = 1, #fields, 2 do
    local field, value = fields[i], fields[i + 1]
    if field == 'subject' then
      count = count + 1
      event.ranks[value] = event.ranks[value] or count
    else
      event[field] = value
    end
  end
  local late = redis.call('HMGET', name('late', position), 'session', 'rank')
  event.session = late[1] or event.session
  event.rank = tonumber(late[2] or event.rank)
  return event
end

local function reply(position, cursor, event)
  return {tonumber(position), tonumber(cursor), event.session or false, event.body}
end

local function current(index, member)
  local ends = redis.call('ZSCORE', index, member)
  return ends and tonumber(ends) > now
end

local function bound(subject)
  return current(BINDINGS, subject) and redis.call('GET', name('bound', subject))
end
"""

# Whatever writes sweeps too. It does so at the end: a script whose first write needs no memory would be let
# through by a server that is out of memory.
WRITES = """
local function sweep_log(limit)
  local rows = redis.call('XRANGE', LOG, '-', text(oldest - 1), 'COUNT', limit)
  if #rows == 0 then return 0 end
  local bytes, last = 0, nil
  for _, row in ipairs(rows) do
    last = string.match(row[1], '^%d+')
    redis.call('DEL', name('late', last))
    bytes = bytes + #row[2][2]
  end
  redis.call('XTRIM', LOG, 'MINID', '=', text(tonumber(last) + 1))
  redis.call('DECRBY', BYTES, bytes)
  return #rows
end

local function sweep_index(index, kind, limit)
  local ended = redis.call('ZRANGEBYSCORE', index, '-inf', text(now), 'LIMIT', 0, limit)
  for _, member in ipairs(ended) do
    redis.call('DEL', name(kind, member))
    redis.call('ZREM', index, member)
  end
  return #ended
end

local function sweep(limit)
  local gone = sweep_log(limit)
  gone = gone + sweep_index(SESSIONS, 'session', limit - gone)
  return gone + sweep_index(BINDINGS, 'bound', limit - gone)
end

local function keep(index, member, key)
  redis.call('ZADD', index, text(now + ttl), member)
  redis.call('PEXPIRE', index, ttl)
  redis.call('PEXPIRE', key, ttl)
end

local function renew(session)
  if current(SESSIONS, session) then keep(SESSIONS, session, name('session', session)) end
end

local function appear(topic, position, cursor)
  local key = name('topic', topic)
  local added = redis.call('ZADD', key, 'NX', cursor, position)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. text(oldest))
  redis.call('PEXPIRE', key, ttl)
  return added == 1
end

local function lead_late(position, subject, session)
  local event = alive(position) and load(position)
  if not event or event.ranks[subject] >= event.rank then return false end
  local key = name('late', position)
  redis.call('HSET', key, 'session', event.session or session, 'rank', event.ranks[subject])
  redis.call('PEXPIRE', key, ttl)
  return event.session ~= session and appear('session:' .. session, position, next_number())
end

-- True if something appeared under the session by that.
local function bind(subject, session)
  -- While a subject is bound, its events are led as they come: none can be waiting for it.
  local waiting = bound(subject) and {} or redis.call('ZRANGE', name('topic', subject), 0, -1)
  redis.call('SET', name('bound', subject), session)
  keep(BINDINGS, subject, name('bound', subject))
  renew(session)
  local appeared = false
  for _, position in ipairs(waiting) do
    appeared = lead_late(position, subject, session) or appeared
  end
  return appeared
end

local function hint(topics)
  redis.call('PUBLISH', root .. ':hints', table.concat(topics, '\\n'))
end
"""

GROUPS = """
local group, me = ARGV[5], ARGV[6]
local NOBODY = '-'

local function joined()
  local summary = redis.pcall('XPENDING', LOG, group)
  return not summary.err
end

local function join()
  if joined() then return end
  redis.call('XGROUP', 'CREATE', LOG, group, '0', 'MKSTREAM')
  if redis.call('PTTL', LOG) == -1 then redis.call('PEXPIRE', LOG, ttl) end
end

-- The time of delivery is given, so that another clock than the server's can be used.
local function give(consumer, position, milliseconds)
  redis.call('XCLAIM', LOG, group, consumer, 0, position, 'TIME', text(milliseconds), 'JUSTID')
end

local function mine(position)
  local row = redis.call('XPENDING', LOG, group, position, position, 1)[1]
  return row and row[2] == me
end
"""

CONSUMERS = """
local function rows(...)
  local all = {}
  for _, flat in ipairs(redis.call('XINFO', ...)) do
    local row = {}
    for i = 1, #flat, 2 do row[flat[i]] = flat[i + 1] end
    table.insert(all, row)
  end
  return all
end

-- To delete a consumer deletes what it holds, so that it must hold nothing. One that lives comes again.
local function forget_consumers(unwanted)
  if redis.call('EXISTS', LOG) == 0 then return end
  for _, group in ipairs(rows('GROUPS', LOG)) do
    for _, consumer in ipairs(rows('CONSUMERS', LOG, group.name)) do
      if consumer.pending == 0 and unwanted(consumer) then
        redis.call('XGROUP', 'DELCONSUMER', LOG, group.name, consumer.name)
      end
    end
  end
end
"""
