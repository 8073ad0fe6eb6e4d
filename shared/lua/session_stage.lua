-- Writes entries beside the log, for session_compact to put in its place. What is never put there expires.
-- KEYS[4] the stage, a stream. ARGV: ms the stage lives, (entry id, number of arguments n, n of field or value)*
-- Returns OK
local stage, i = KEYS[4], 2
while i <= #ARGV do
  local n = tonumber(ARGV[i + 1])
  redis.call('XADD', stage, ARGV[i], unpack(ARGV, i + 2, i + 1 + n))
  i = i + 2 + n
end
redis.call('PEXPIRE', stage, ARGV[1])
return { 'OK' }
