-- Puts the stage in the place of the log: the same events in fewer entries. Only if the session is over, and its log as it
-- was when it was read; otherwise the log stays, and the stage goes.
-- KEYS[4] the stage. ARGV: last event id, id of the log's first entry, its number of entries, that of the stage
-- Returns OK | NO why
local stage, last, first = KEYS[4], ARGV[1], ARGV[2]

local function end_of(stream, command, from, to)
  local entry = redis.call(command, stream, from, to, 'COUNT', 1)[1]
  return entry and entry[1]
end

local function refusal()
  if not known() then return 'unknown' end
  if LIVE[get('state')] then return 'live' end
  if get('last') ~= last or end_of(EVENTS, 'XRANGE', '-', '+') ~= first
    or redis.call('XLEN', EVENTS) ~= tonumber(ARGV[3]) then return 'changed' end
  if end_of(stage, 'XREVRANGE', '+', '-') ~= last or redis.call('XLEN', stage) ~= tonumber(ARGV[4]) then
    return 'incomplete'
  end
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
