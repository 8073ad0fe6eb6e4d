-- Writes entries beside the log, for session_compact to put in its place. What is never put there expires.
-- KEYS[4] the stage, a stream. ARGV: ms the stage lives, id it ends with, (entry id, number of arguments n, n of field or
--       value)*
-- Returns OK | NO id (it ends with that one: this call came before, or what came before is gone)
local stage, before = KEYS[4], ARGV[2]
local top = redis.call('XREVRANGE', stage, '+', '-', 'COUNT', 1)[1]
local ends = top and top[1] or '0-0'
if ends ~= before then return { 'NO', ends } end
local i = 3
while i <= #ARGV do
  local n = tonumber(ARGV[i + 1])
  redis.call('XADD', stage, ARGV[i], unpack(ARGV, i + 2, i + 1 + n))
  i = i + 2 + n
end
redis.call('PEXPIRE', stage, ARGV[1])
return { 'OK' }
