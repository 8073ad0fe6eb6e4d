-- Puts the stage in the place of the log: the same events in fewer entries. Only if the session is over, and its log as it
-- was when it was read; otherwise the log stays, and the stage goes. Without a new last event a log can only lose entries,
-- so their number tells.
-- KEYS[4] the stage. ARGV: last event id, number of entries of the log, that of the stage
-- Returns OK | NO why
local stage, last = KEYS[4], ARGV[1]

local function refusal()
  if not known() then return 'unknown' end
  if LIVE[get('state')] then return 'live' end
  if get('last') ~= last or redis.call('XLEN', EVENTS) ~= tonumber(ARGV[2]) then return 'changed' end
  local top = redis.call('XREVRANGE', stage, '+', '-', 'COUNT', 1)[1]
  if not top or top[1] ~= last or redis.call('XLEN', stage) ~= tonumber(ARGV[3]) then return 'incomplete' end
end

local why = refusal()
if why then
  redis.call('DEL', stage)
  return { 'NO', why }
end
local left = redis.call('PTTL', EVENTS)
if left < 0 then redis.call('PERSIST', stage) else redis.call('PEXPIRE', stage, integer(math.max(left, 1))) end
redis.call('RENAME', stage, EVENTS)
return { 'OK' }
