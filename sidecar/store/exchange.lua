-- A budget, one transition: give back what the reservation held, charge what was spent, hold a new amount if that fits.
-- KEYS: account {opened, used, reserved} · leases (reservation → end) · amounts (reservation → units)
-- ARGV: reservation, limit, window (us), spent, amount, lease (us), peek, settled for (us; 0 = this does not settle)
-- → {fits, used, reserved, us to the next window}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local reservation, limit, window = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local spent, amount, lease, peek = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local settled = tonumber(ARGV[8])
local function text(number) return string.format('%.0f', number) end

local account = redis.call('HMGET', KEYS[1], 'opened', 'used', 'reserved')
local opened, used, reserved = tonumber(account[1] or 0), tonumber(account[2] or 0), tonumber(account[3] or 0)
-- It was settled, and the answer was lost on its way: charge once.
if settled > 0 and redis.call('HGET', KEYS[3], reservation) == 'settled' then
  return {1, text(used), text(reserved), '0'}
end
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now))
if not peek then
  gone[#gone + 1] = reservation
end
for i = 1, #gone do
  local held = redis.call('HGET', KEYS[3], gone[i])
  if held then
    reserved = reserved - (tonumber(held) or 0)
    if not peek then
      redis.call('ZREM', KEYS[2], gone[i])
      redis.call('HDEL', KEYS[3], gone[i])
    end
  end
end
if now < opened or now >= opened + window then
  opened, used = now, 0
end
used = used + spent
local fits = 1
if amount > 0 and used + reserved + amount > limit then
  fits = 0
end
local resets = opened + window - now
if not peek then
  if fits == 1 and amount > 0 then
    redis.call('ZADD', KEYS[2], text(now + lease), reservation)
    redis.call('HSET', KEYS[3], reservation, text(amount))
    reserved = reserved + amount
  end
  if settled > 0 and spent > 0 then
    redis.call('ZADD', KEYS[2], text(now + settled), reservation)
    redis.call('HSET', KEYS[3], reservation, 'settled')
  end
  redis.call('HSET', KEYS[1], 'opened', text(opened), 'used', text(used), 'reserved', text(reserved))
  -- All three go together, when neither the window nor a lease needs them. The account says what is reserved, so it must
  -- not outlive the amounts.
  local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  local ends = math.max(opened + window, tonumber(last[2] or 0))
  for i = 1, 3 do
    redis.call('PEXPIREAT', KEYS[i], text(math.ceil(ends / 1000) + 1000))
  end
end
return {fits, text(used), text(reserved), text(resets)}
