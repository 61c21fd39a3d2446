-- Raises an entity's floor, never lowers it. Answers 1 if what lies below has to
-- be removed by who asks, and 0 if that is done, or is left to a higher floor.
--
-- KEYS[1]  the entity's floor
-- KEYS[2]  who empties the entity; there from this script to the end of that
-- ARGV[1]  the floor, 19 digits
-- ARGV[2]  who asks; empty for one that leaves KEYS[2] alone
local floor = redis.call('GET', KEYS[1])
if not floor or floor < ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1])
elseif ARGV[2] == '' then
  return 1
elseif floor > ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then
  return 0
end
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[2], ARGV[2])
end
return 1
