-- A register: read it, or replace what is known to be in it.
-- KEYS[1] the register · ARGV: read | create, value | replace, value, what it must hold → its value, or 1 = done, 0 = it holds another
local now = redis.call('GET', KEYS[1])
if ARGV[1] == 'read' then
  return now
end
if (ARGV[1] == 'create' and now) or (ARGV[1] == 'replace' and now ~= ARGV[3]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
