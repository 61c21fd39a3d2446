-- Sets each of an entity's rows or tombstones if its version is newer than the
-- held one. Answers a list: a text with a letter per row, "1" where it did, "0"
-- where not and "e" where Redis refused, and after it the refusals in order.
--
-- KEYS[1]   the entity's floor: nothing below it is applied; equal is
-- KEYS[i]   the key of a row
-- ARGV[1]   life of a tombstone in milliseconds
-- ARGV[2]   life of a row's key in milliseconds, 0 for ever
-- ARGV[3]   life of a row in milliseconds, 0 for as long as its key's
-- ARGV[2i]  version of the row of KEYS[i], 19 digits; compared as text, as Lua's
--           numbers are doubles. A "+" after it says that equal is newer too.
-- ARGV[2i+1]  the row as JSON; empty for a tombstone
local call, pcall = redis.call, redis.pcall
local tombstoneLife, keyLife, rowLife = ARGV[1], ARGV[2], ARGV[3]
local floor = call('GET', KEYS[1])

local time
local function now()
  if not time then
    local t = call('TIME')
    time = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return time
end

local function isNewer(version, again, held)
  local v = held[1]
  if not v or v < version then
    return true
  end
  if v > version then
    return false
  end
  return again or held[2] and tonumber(held[2]) <= now()
end

-- HSET goes first: it is the command that a full server refuses, and then
-- nothing has changed yet. What else an older document left is removed only
-- where there is something: a new row takes two commands.
local function setTombstone(key, version, held)
  local done = pcall('HSET', key, 'v', version, 'del', '1')
  if type(done) == 'table' then
    return done
  end
  if held[1] then
    call('HDEL', key, 'd', 'x')
  end
  call('PEXPIRE', key, tombstoneLife)
end

local function setRow(key, version, row, held)
  local done
  if rowLife == '0' then
    done = pcall('HSET', key, 'v', version, 'd', row)
  else
    done = pcall('HSET', key, 'v', version, 'd', row, 'x', string.format('%.0f', now() + tonumber(rowLife)))
  end
  if type(done) == 'table' then
    return done
  end
  if held[3] then
    call('HDEL', key, 'del')
  end
  if held[2] and rowLife == '0' then
    call('HDEL', key, 'x')
  end
  if keyLife ~= '0' then
    call('PEXPIRE', key, keyLife)
  elseif held[1] then
    call('PERSIST', key)
  end
end

local answer, letters = {''}, {}
for i = 2, #KEYS do
  local key, version, row = KEYS[i], ARGV[2 * i], ARGV[2 * i + 1]
  local again = #version > 19
  if again then
    version = string.sub(version, 1, 19)
  end
  local letter, refusal = '0', nil
  if not floor or version >= floor then
    local held = pcall('HMGET', key, 'v', 'x', 'del')
    if held.err then
      refusal = held
    elseif isNewer(version, again, held) then
      letter = '1'
      if row == '' then
        refusal = setTombstone(key, version, held)
      else
        refusal = setRow(key, version, row, held)
      end
    end
  end
  if refusal then
    letter = 'e'
    answer[#answer + 1] = refusal.err
  end
  letters[i - 1] = letter
end
answer[1] = table.concat(letters)
return answer
