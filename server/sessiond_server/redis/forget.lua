-- Removes a session's copy and content if they are older than a version, and leaves a mark that keeps older copies out
-- for some time. put.lua describes the values.
--
-- KEYS[1]  the copy
-- KEYS[2]  the session's content
-- ARGV[1]  version, 16 digits
-- ARGV[2]  time to live of the mark, milliseconds: longer than a copy that was read before may take to arrive
-- Returns 1: done; 0: the entry already has this version or a newer one.

local tail = redis.pcall('LINDEX', KEYS[1], -1)
local live = type(tail) == 'string' and string.find(tail, '^S%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d')
local mark = type(tail) == 'string' and (#tail == 17 or #tail == 49) and string.find(tail, '^F%d+$')
-- A value of another form, which another program wrote, has no version to compare.
if live and string.sub(tail, 2, 17) >= ARGV[1] then
  return 0
end
if mark then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local held, life = string.sub(tail, 2, 17), math.max(redis.call('PTTL', KEYS[1]), 0)
  local ends, floor = string.format('%016d', now + life), string.rep('0', 16)
  if #tail == 49 then
    ends, floor = string.sub(tail, 18, 33), string.sub(tail, 34, 49)
  end
  if ends <= string.format('%016d', now) then
    held = floor
  elseif held > ARGV[1] then
    -- This version must still be kept out when the mark of the higher one has ended.
    redis.call('LSET', KEYS[1], -1, 'F' .. held .. ends .. (ARGV[1] > floor and ARGV[1] or floor))
    redis.call('PEXPIRE', KEYS[1], math.max(life, tonumber(ARGV[2])))
  end
  if held > ARGV[1] then
    return 0
  end
end
-- DEL comes first: a server that is out of memory refuses commands that may need memory, but not after a deletion.
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('RPUSH', KEYS[1], 'F' .. ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
