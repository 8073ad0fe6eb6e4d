-- Writes entries beside the log, for session_compact to put in its place. What is never put there expires.
-- KEYS[4] the stage, a stream. ARGV: ms the stage lives, id it ends with, id it is to end with, (entry id, number of
--       arguments n, n of field or value)*
-- Returns OK | NO (it ends elsewhere)
local stage, before, after = KEYS[4], ARGV[2], ARGV[3]
local top = redis.call('XREVRANGE', stage, '+', '-', 'COUNT', 1)[1]
local ends = top and top[1] or '0-0'
if ends == after then return { 'OK' } end -- the same call before
if ends ~= before then return { 'NO' } end
local i = 4
while i <= #ARGV do
  local n = tonumber(ARGV[i + 1])
  redis.call('XADD', stage, ARGV[i], unpack(ARGV, i + 2, i + 1 + n))
  i = i + 2 + n
end
redis.call('PEXPIRE', stage, ARGV[1])
return { 'OK' }
