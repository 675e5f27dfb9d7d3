-- Removes a session's copy and content if they are older than a version, and leaves a mark that keeps older copies out
-- for some time. put.lua describes the values.
--
-- KEYS[1]  the copy
-- KEYS[2]  the session's content
-- ARGV[1]  version, 16 digits
-- ARGV[2]  time to live of the mark, milliseconds: longer than a copy that was read before may take to arrive
-- Returns 1: done; 0: the entry already has this version or a newer one.

local tail = redis.pcall('LINDEX', KEYS[1], -1)
-- A value of another form, which another program wrote, has no version to compare.
if type(tail) == 'string' and string.find(tail, '^[SF]%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d')
  and string.sub(tail, 2, 17) >= ARGV[1] then
  return 0
end
-- DEL comes first: a server that is out of memory refuses commands that may need memory, but not after a deletion.
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('RPUSH', KEYS[1], 'F' .. ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
