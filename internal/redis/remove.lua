-- Removes rows and tombstones whose version is low enough. Answers how many of
-- them were rows, or -1 if somebody else empties the entity by now.
--
-- KEYS[1]  who empties the entity
-- KEYS[i]  the key of a row
-- ARGV[1]  the greatest version to remove, 19 digits
-- ARGV[2]  who asks; empty for one that does not mind who else does
if ARGV[2] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[2] then
  return -1
end
local rows = 0
for i = 2, #KEYS do
  local held = redis.pcall('HMGET', KEYS[i], 'v', 'del')
  -- What is no hash, or has no version, is not Capsaga's.
  if not held.err and held[1] and #held[1] == 19 and held[1] <= ARGV[1] then
    redis.call('UNLINK', KEYS[i])
    if not held[2] then
      rows = rows + 1
    end
  end
end
return rows
