-- GCRA, one transition. Time is counted in ticks of 1/16 microsecond since 2026: the finest that a Lua number (a double)
-- counts exactly for the next 17 years. What is kept is when the key is due; it expires when it would be on time anyway.
-- KEYS[1] the limit · ARGV: interval in ticks, burst, quantity, peek (1 = change nothing) → ticks to wait, 0 = taken
local time = redis.call('TIME')
local now = ((tonumber(time[1]) - 1767225600) * 1000000 + tonumber(time[2])) * 16
local interval, burst, quantity = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local span = burst * interval
local due = tonumber(redis.call('GET', KEYS[1]) or 0)
-- Further ahead than a whole burst: the clock was set back, or the pace has changed.
due = math.min(math.max(due, now), now + span)
local after = due + quantity * interval
local wait = after - now - span
if quantity > 0 and wait > 0 then
  return string.format('%.0f', wait)
end
if ARGV[4] ~= '1' then
  if after > now then
    redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 16000))
  else
    redis.call('DEL', KEYS[1])
  end
end
return '0'
