-- Sets a row or a tombstone if its version is newer than the held one; answers
-- 1 if it did and 0 if not.
--
-- KEYS[1]  the row's key
-- ARGV[1]  version, 19 digits; compared as text, as Lua's numbers are doubles
-- ARGV[2]  "row" or "del"
-- ARGV[3]  the row as JSON
-- ARGV[4]  life of the key in milliseconds, 0 for ever
-- ARGV[5]  life of the row in milliseconds, 0 for as long as the key's
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local held = redis.call('HMGET', KEYS[1], 'v', 'x')
if held[1] then
  if held[1] > ARGV[1] then
    return 0
  end
  local expired = held[2] and tonumber(held[2]) <= now()
  if held[1] == ARGV[1] and not expired then
    return 0
  end
end

-- HSET goes first: it is the command that a full server refuses, and then
-- nothing has changed yet.
if ARGV[2] == 'del' then
  redis.call('HSET', KEYS[1], 'v', ARGV[1], 'del', '1')
  redis.call('HDEL', KEYS[1], 'd', 'x')
elseif ARGV[5] ~= '0' then
  redis.call('HSET', KEYS[1], 'v', ARGV[1], 'd', ARGV[3],
    'x', string.format('%.0f', now() + tonumber(ARGV[5])))
  redis.call('HDEL', KEYS[1], 'del')
else
  redis.call('HSET', KEYS[1], 'v', ARGV[1], 'd', ARGV[3])
  redis.call('HDEL', KEYS[1], 'del', 'x')
end

if ARGV[4] == '0' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
