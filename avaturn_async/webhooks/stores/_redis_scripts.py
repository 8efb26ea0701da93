"""What RedisStore does inside Redis: one Lua script for each of its methods.

A script runs as a whole or not at all, and nothing comes in between: that makes an append atomic.
ARGV begins with what TIME reads (prefix, ttl, takeover, clock), so that a script's own begins with the fifth.
"""

from __future__ import annotations

import hashlib

from avaturn_async.webhooks.stores._redis_lua import CONSUMERS, EVENTS, GROUPS, TIME, WRITES, Script

__all__ = [
    "APPEND",
    "BIND",
    "BOUND",
    "CLAIM",
    "EXPIRE",
    "FINISH",
    "HOLD",
    "JOIN",
    "LEAVE",
    "LOAD_SESSION",
    "READ",
    "RELEASE",
    "SAVE_SESSION",
    "SEEN",
    "SIZES",
]


def _script(*parts: str) -> Script:
    source = "".join((TIME, *parts)).encode()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


APPEND = _script(
    EVENTS,
    WRITES,
    """
local key, body, session, count = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local twin = redis.call('GET', name('key', key))
if twin and alive(twin) then return 0 end

local topics, entry = {}, {'body', body}
local rank, guide = session ~= '' and 0 or UNROUTED, nil
for i = 9, 8 + count do
  local subject = ARGV[i]
  table.insert(topics, subject)
  table.insert(entry, 'subject')
  table.insert(entry, subject)
  if rank == UNROUTED then
    local found = bound(subject)
    if found then session, rank, guide = found, i - 8, subject end
  end
end
table.insert(entry, 'rank')
table.insert(entry, rank)
if session ~= '' then
  table.insert(topics, 'session:' .. session)
  table.insert(entry, 'session')
  table.insert(entry, session)
end

local position = next_number()
redis.call('XADD', LOG, position .. '-0', unpack(entry))
redis.call('PEXPIRE', LOG, ttl)
redis.call('SET', name('key', key), position, 'PX', ttl)
-- The first one begins to count anew: the count may have outlived the log by a moment.
redis.call('SET', BYTES, #body + (redis.call('XLEN', LOG) > 1 and redis.call('GET', BYTES) or 0), 'PX', ttl)
-- Before it appears: it is none of those that have been waiting for a binding.
if guide then bind(guide, session) elseif session ~= '' then renew(session) end
if session ~= '' then
  for i = 9 + count, #ARGV do bind(ARGV[i], session) end
end
for _, topic in ipairs(topics) do appear(topic, position, position) end
hint(topics)
sweep(20)
return tonumber(position)
""",
)

SEEN = _script(
    """
local position = redis.call('GET', name('key', ARGV[5]))
return position and alive(position) and 1 or 0
"""
)

READ = _script(
    EVENTS,
    """
local key, after, most, bytes = name('topic', ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local found = {}
repeat
  local rows = redis.call('ZRANGEBYSCORE', key, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #rows, 2 do
    after = rows[i + 1]
    local event = alive(rows[i]) and load(rows[i])
    if event then
      table.insert(found, reply(rows[i], after, event))
      bytes = bytes - #event.body
      if bytes <= 0 then return found end
    end
  end
until #found > 0 or #rows == 0
return found
""",
)

BIND = _script(
    EVENTS,
    WRITES,
    """
if bind(ARGV[5], ARGV[6]) then hint({'session:' .. ARGV[6]}) end
sweep(20)
""",
)

BOUND = _script(EVENTS, "return bound(ARGV[5])")

SAVE_SESSION = _script(
    EVENTS,
    WRITES,
    """
local session, appeared = ARGV[5], false
redis.call('HSET', name('session', session), 'user', ARGV[6], 'context', ARGV[7])
keep(SESSIONS, session, name('session', session))
for i = 8, #ARGV do appeared = bind(ARGV[i], session) or appeared end
if appeared then hint({'session:' .. session}) end
sweep(20)
""",
)

LOAD_SESSION = _script(
    EVENTS,
    """
if not current(SESSIONS, ARGV[5]) then return {false, false} end
return redis.call('HMGET', name('session', ARGV[5]), 'user', 'context')
""",
)

JOIN = _script(GROUPS, "join()")

CLAIM = _script(
    EVENTS,
    GROUPS,
    """
local limit, claimed = tonumber(ARGV[7]), {}
local function take(position)
  local event = alive(position) and load(position)
  if event then
    give(me, position, now)
    table.insert(claimed, reply(position, position, event))
  else
    redis.call('XACK', LOG, group, position)
  end
end

join()
-- How long the server must think that it was idle, if it is by our clock idle for long enough.
local idle, cursor = text(math.max(server - now + takeover, 0)), '0-0'
repeat
  local found = redis.call(
    'XAUTOCLAIM', LOG, group, me, idle, cursor, 'COUNT', limit - #claimed, 'JUSTID')
  cursor = found[1]
  for _, id in ipairs(found[2]) do take(string.match(id, '^%d+')) end
until cursor == '0-0' or #claimed >= limit
while #claimed < limit do
  local found = redis.call(
    'XREADGROUP', 'GROUP', group, me, 'COUNT', limit - #claimed, 'STREAMS', LOG, '>')
  if not found then break end
  for _, row in ipairs(found[1][2]) do take(string.match(row[1], '^%d+')) end
end
return claimed
""",
)

HOLD = _script(
    GROUPS,
    """
if not joined() then return end
for i = 7, #ARGV do
  if mine(ARGV[i]) then give(me, ARGV[i], now) end
end
""",
)

FINISH = _script(
    GROUPS,
    """
for i = 7, #ARGV do redis.call('XACK', LOG, group, ARGV[i]) end
""",
)

# Held by nobody since the beginning of time: XAUTOCLAIM finds it at once.
RELEASE = _script(
    GROUPS,
    """
if not joined() then return end
for i = 7, #ARGV do
  if mine(ARGV[i]) then give(NOBODY, ARGV[i], 0) end
end
redis.call('PUBLISH', root .. ':hints', '')
""",
)

LEAVE = _script(
    CONSUMERS,
    """
forget_consumers(function(consumer) return consumer.name == ARGV[5] end)
""",
)

EXPIRE = _script(
    EVENTS,
    WRITES,
    CONSUMERS,
    """
local gone = sweep(tonumber(ARGV[5]))
forget_consumers(function(consumer) return consumer.idle > takeover end)
return gone
""",
)

SIZES = _script(
    """
return {
  redis.call('XLEN', LOG), tonumber(redis.call('GET', BYTES) or 0),
  redis.call('ZCARD', SESSIONS), redis.call('ZCARD', BINDINGS)}
"""
)
