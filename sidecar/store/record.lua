-- A record: put where it is what its writer thinks it is. Its age counts from the last put, by Redis' clock.
-- KEYS[1] the record · ARGV: find | create, value, milliseconds | replace, value, milliseconds, what it must hold
-- → find: {value, age in microseconds} or nil · else 1 = done, {value, age} = it holds another, 0 = it holds nothing
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('HMGET', KEYS[1], 'value', 'put')
local value = found[1]
local state = value and {value, string.format('%.0f', now - tonumber(found[2]))}
if ARGV[1] == 'find' then
  return state
end
if (ARGV[1] == 'create' and value) or (ARGV[1] == 'replace' and value ~= ARGV[4]) then
  return state or 0
end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'put', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
