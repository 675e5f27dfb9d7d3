-- Removes what a client could not read as a copy, and the content beside it, unless something else has come there since.
--
-- KEYS[1]  the copy
-- KEYS[2]  the session's content
-- ARGV[1]  SHA-1 of the tail that was seen, in hexadecimal; empty: it was no list
-- Returns 1: removed; 0: something else is there.

local tail = redis.pcall('LINDEX', KEYS[1], -1)
if type(tail) == 'string' and redis.sha1hex(tail) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
