-- A verdict on a generation whose worker is gone. An answer that was accepted stays, for the next attempt to use.
-- ARGV: the epoch that was judged, max crashes, minimum age ms, jump, data of generation.failed, data of
--       generation.cancelled, retention ms, tombstone ms
-- Returns QUEUED epoch generation | ENDED id generation | NO state | UNKNOWN
local judged, max_crashes, min_age, jump = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
if not known() then return { 'UNKNOWN' } end
local state = get('state')
if (state ~= 'running' and state ~= 'waiting') or get('epoch') ~= judged then return { 'NO', state } end
local now = now_ms()
if now - tonumber(get('since')) < min_age then return { 'NO', 'young' } end
local crashes = tonumber(get('crashes')) + 1
local type, data
if get('stop') ~= '' then
  type, data = 'generation.cancelled', ARGV[6]
elseif crashes >= max_crashes then
  type, data = 'generation.failed', ARGV[5]
end
if type then
  local id = end_by_decree(now, jump, type, data, tonumber(ARGV[7]), tonumber(ARGV[8]))
  return { 'ENDED', id, get('generation') }
end
redis.call('HSET', SESSION, 'state', 'queued', 'token', '', 'worker', '', 'question', '',
  'crashes', crashes, 'since', integer(now))
return { 'QUEUED', judged, get('generation') }
