-- A reservation lives on, unless it has expired.
-- KEYS: account · leases · amounts · ARGV: reservation, lease (us)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not ends or tonumber(ends) <= now then
  return 0
end
local later = now + tonumber(ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', later), ARGV[1])
for i = 1, 3 do
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) / 1000 + 1000 then
    redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', math.ceil(later / 1000) + 1000))
  end
end
return 1
