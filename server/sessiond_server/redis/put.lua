-- Stores a copy of a session unless a newer version is known. Performs all reads before the first write.
--
-- KEYS[1]  the copy: a list of placed messages (16 digits of seq, the message, a checksum), oldest first, and at its
--          end the tail: a letter, version, after_seq and the bytes of all messages (16 digits each), then fields that
--          only clients read. Letter S: a copy. Letter F: a mark that keeps copies older than its version out; there are
--          no messages. A mark that has kept a copy out also has the time at which it ends (16 digits, milliseconds of
--          this server's clock), and the version (16 digits) that takes the place of its own from then on.
-- KEYS[2]  the session's content: 16 digits of content_version, the content, a checksum
-- ARGV[1]  latest time at which the copy may be stored, milliseconds of this server's clock
-- ARGV[2]  time to live of the copy, or of a mark that keeps it out, milliseconds
-- ARGV[3]  version, 16 digits
-- ARGV[4]  after_seq, 16 digits: ARGV[9..] are all messages after it, up to the version
-- ARGV[5]  "1": if the stored copy's version is exactly after_seq, its messages are kept in front of these
-- ARGV[6]  the rest of the tail
-- ARGV[7]  the new value of KEYS[2]; empty: none
-- ARGV[8]  most messages, most bytes of them: 16 digits each
-- ARGV[9]  ... placed messages, ascending; at most as many as may be kept
-- Returns 1: stored; 0: the same or a newer version was there; -1: too late.
-- A stored value of another form is replaced. Raise LAYOUT in entries.py with every change of the form.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[1]) then
  return -1
end

local ttl, version, after, rest, content = ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7]
local bytes, taken = 0, 1
local tail = redis.pcall('LINDEX', KEYS[1], -1)
local held_content = content ~= '' and redis.pcall('GETRANGE', KEYS[2], 0, 15) or ''
if type(held_content) ~= 'string' or not string.find(held_content, '^%d+$') then
  held_content = ''
end

local live = type(tail) == 'string' and #tail >= 49 and string.find(string.sub(tail, 1, 49), '^S%d+$')
local mark = type(tail) == 'string' and (#tail == 17 or #tail == 49) and string.find(tail, '^F%d+$')
if tail and not live and not mark then
  redis.call('DEL', KEYS[1])
elseif tail then
  local held = string.sub(tail, 2, 17)
  local life = mark and redis.call('PTTL', KEYS[1])
  local ends = mark and #tail == 49 and string.sub(tail, 18, 33) or string.format('%016d', now + math.max(life or 0, 0))
  local floor = mark and #tail == 49 and string.sub(tail, 34, 49) or string.rep('0', 16)
  if mark and ends <= string.format('%016d', now) then
    held = floor
  elseif mark and held > version then
    -- This copy may be newer than a read that arrives after the mark has ended.
    redis.call('LSET', KEYS[1], -1, 'F' .. held .. ends .. (version > floor and version or floor))
    redis.call('PEXPIRE', KEYS[1], math.max(life, tonumber(ttl)))
  end
  if held > version then
    return 0
  end
  if live and held == version and string.sub(tail, 18, 33) <= after then
    taken = 0
  elseif live and held == after and held < version and ARGV[5] == '1' then
    redis.call('RPOP', KEYS[1])
    after, bytes = string.sub(tail, 18, 33), tonumber(string.sub(tail, 34, 49))
  else
    redis.call('DEL', KEYS[1])
  end
end

if taken == 1 then
  for i = 9, #ARGV do
    redis.call('RPUSH', KEYS[1], ARGV[i])
    bytes = bytes + #ARGV[i]
  end
  local most, most_bytes = tonumber(string.sub(ARGV[8], 1, 16)), tonumber(string.sub(ARGV[8], 17, 32))
  local count = redis.call('LLEN', KEYS[1])
  while count > most or bytes > most_bytes do
    local oldest = redis.call('LPOP', KEYS[1])
    count, bytes, after = count - 1, bytes - #oldest, string.sub(oldest, 1, 16)
  end
  redis.call('RPUSH', KEYS[1], 'S' .. version .. after .. string.format('%016d', bytes) .. rest)
  redis.call('PEXPIRE', KEYS[1], ttl)
  -- The content of a version never changes, so it stays valid beside the newer copy.
  redis.call('PEXPIRE', KEYS[2], ttl)
end

if content ~= '' and held_content < string.sub(content, 1, 16) then
  redis.call('SET', KEYS[2], content, 'PX', ttl)
end
return taken
