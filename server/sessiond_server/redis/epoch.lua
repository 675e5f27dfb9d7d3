-- Returns the current epoch of this server. Begins a new one if the stored epoch was begun on another server, or if the
-- client requires it. Always writes, so that a read-only server fails here.
--
-- KEYS[1]  the epoch: 40 characters of the run id of the server that it was begun on, then its name
-- ARGV[1]  run id of this server
-- ARGV[2]  name for a new epoch, never used before
-- ARGV[3]  "1": begin a new epoch in any case
-- Returns {value of KEYS[1], this server's time in milliseconds, as text}.

local now = redis.call('TIME')
local epoch = redis.call('GET', KEYS[1])
if ARGV[3] == '1' or not epoch or string.sub(epoch, 1, 40) ~= ARGV[1] then
  epoch = ARGV[1] .. ARGV[2]
end
redis.call('SET', KEYS[1], epoch)
return {epoch, string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))}
