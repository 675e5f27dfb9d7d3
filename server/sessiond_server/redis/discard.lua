-- Removes a damaged entry and the session's content, unless another client has replaced the entry since it was read.
--
-- KEYS[1]  the copy
-- KEYS[2]  the session's content
-- ARGV[1]  SHA-1 of the tail that the client read, in hexadecimal; empty: the entry was not a list
-- Returns 1: removed; 0: the entry was replaced.

local tail = redis.pcall('LINDEX', KEYS[1], -1)
if type(tail) == 'string' and redis.sha1hex(tail) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
