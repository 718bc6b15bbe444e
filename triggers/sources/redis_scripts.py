"""Lua scripts of Redis and Valkey Streams: each step of a delivery is one atomic step of the server.

Entries stay in the consumer group's list of pending entries until they are acknowledged, also while they wait
for a retry. Two sorted sets beside the stream say when they may be lent again: `lent` has the end of each
loan, `delayed` the instant of each retry (milliseconds of the server's clock).
"""

from __future__ import annotations

from typing import Final

_HEAD: Final = """
local stream, lent, delayed = KEYS[1], KEYS[2], KEYS[3]
local group = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local function delivered(id)
  local found = redis.call('XPENDING', stream, group, id, id, 1)
  if #found == 0 then return 0 end
  return found[1][4]
end
"""

RECEIVE: Final = (
    _HEAD
    + """
-- ARGV: group, consumer, limit, lease in ms.
-- Returns entries {id, fields, count}, the last delivered id, ms until the next one is due (-1: none).
local consumer, limit, lease = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local entries = {}
local function lend(id, fields, count)
  redis.call('ZADD', lent, now + lease, id)
  entries[#entries + 1] = {id, fields, count}
end
for _, set in ipairs({delayed, lent}) do
  if #entries < limit then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, limit - #entries)) do
      redis.call('ZREM', set, id)
      local claimed = redis.call('XCLAIM', stream, group, consumer, 0, id)
      if claimed[1] and claimed[1][2] then lend(id, claimed[1][2], delivered(id)) end
    end
  end
end
if #entries < limit then
  local read =
    redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit - #entries, 'STREAMS', stream, '>')
  if read then
    for _, entry in ipairs(read[1][2]) do lend(entry[1], entry[2], 1) end
  end
end
if #entries > 0 then return {entries, '', 0} end
local last = '0-0'
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local of = {}
  for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
  if of['name'] == group then last = of['last-delivered-id'] end
end
local wait = -1
for _, set in ipairs({delayed, lent}) do
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if first[2] and (wait < 0 or first[2] - now < wait) then wait = math.max(first[2] - now, 0) end
end
return {entries, last, math.ceil(wait)}
"""
)

ADOPT: Final = (
    _HEAD
    + """
-- ARGV: group, idle ms.
-- Pending entries in neither set (another tool read them, or the sets were lost) become due.
local found = redis.call('XPENDING', stream, group, 'IDLE', ARGV[2], '-', '+', 1000)
local adopted = 0
for _, entry in ipairs(found) do
  local id = entry[1]
  if not redis.call('ZSCORE', lent, id) and not redis.call('ZSCORE', delayed, id) then
    redis.call('ZADD', delayed, now, id)
    adopted = adopted + 1
  end
end
return adopted
"""
)

_EACH: Final = """
-- ARGV: group, the step's own argument, then id and delivery count for each entry.
-- Returns the ids that are not lent to us.
local own = tonumber(ARGV[2])
local lost = {}
for i = 3, #ARGV, 2 do
  local id, count = ARGV[i], tonumber(ARGV[i + 1])
  if redis.call('ZSCORE', lent, id) and delivered(id) == count then
    STEP
  else
    lost[#lost + 1] = id
  end
end
return lost
"""

ACKNOWLEDGE: Final = _HEAD + _EACH.replace(
    "STEP",
    "redis.call('XACK', stream, group, id); redis.call('ZREM', lent, id); "
    "if own == 1 then redis.call('XDEL', stream, id) end",
)
"""Its own argument: 1 to delete the entries from the stream."""

RETRY: Final = _HEAD + _EACH.replace(
    "STEP", "redis.call('ZREM', lent, id); redis.call('ZADD', delayed, now + own, id)"
)
"""Its own argument: the delay in ms."""

EXTEND: Final = _HEAD + _EACH.replace("STEP", "redis.call('ZADD', lent, now + own, id)")
"""Its own argument: the loan in ms from now."""

RELEASE: Final = _HEAD + _EACH.replace(
    "STEP",
    "redis.call('XCLAIM', stream, group, 'released', 0, id, 'RETRYCOUNT', count - 1, 'JUSTID'); "
    "redis.call('ZREM', lent, id); redis.call('ZADD', delayed, now - 1 + i / 100000, id)",
)
"""Takes the delivery off the count; its own argument is unused."""

BACKLOG: Final = (
    _HEAD
    + """
-- ARGV: group. Returns undelivered entries (-1: unknown), delayed entries, oldest id of both.
local undelivered, last = -1, '0-0'
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local of = {}
  for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
  if of['name'] == group then
    last = of['last-delivered-id']
    if of['lag'] then undelivered = of['lag'] end
  end
end
local oldest = ''
local first = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)
if first[1] then oldest = first[1][1] end
local waiting = redis.call('ZRANGE', delayed, 0, 99)
for _, id in ipairs(waiting) do
  local ms, best = tonumber(string.match(id, '^%d+')), tonumber(string.match(oldest, '^%d+'))
  if not best or ms < best then oldest = id end
end
return {undelivered, redis.call('ZCARD', delayed), oldest, last, waiting, math.floor(now)}
"""
)
