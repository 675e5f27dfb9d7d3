-- Sees to it that nothing of a session below a version is there, nor comes for a while. See put.lua for the values.
--
-- KEYS[1]  the copy
-- KEYS[2]  the session's content
-- ARGV[1]  version, 16 digits
-- ARGV[2]  how long it holds, milliseconds: longer than anything that was read before may take to arrive
-- Returns 1: done; 0: nothing older was there.

local tail = redis.pcall('LINDEX', KEYS[1], -1)
-- What is no tail, because another program wrote it, says nothing about versions.
if type(tail) == 'string' and string.find(tail, '^[SF]%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d')
  and string.sub(tail, 2, 17) >= ARGV[1] then
  return 0
end
-- First: a server that is out of memory refuses what may need some, but not what follows a deletion.
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('RPUSH', KEYS[1], 'F' .. ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
