-- A lease: taken if nobody holds it, renewed by its owner, let go of with 0 milliseconds.
-- KEYS[1] the lease · ARGV: owner, milliseconds → 1 = it is the owner's, 0 = it is not
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if tonumber(ARGV[2]) <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
