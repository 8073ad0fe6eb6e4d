-- Ends a generation that stayed queued too long.
-- ARGV: the epoch that was judged, minimum age ms, jump, data of generation.failed, retention ms, tombstone ms
-- Returns ENDED id generation | NO state | UNKNOWN
local judged, min_age, jump, data = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not known() then return { 'UNKNOWN' } end
local state = get('state')
if state ~= 'queued' or get('epoch') ~= judged then return { 'NO', state } end
local now = now_ms()
if now - tonumber(get('since')) < min_age then return { 'NO', 'young' } end
local id = end_by_decree(now, jump, 'generation.failed', data, tonumber(ARGV[5]), tonumber(ARGV[6]))
return { 'ENDED', id, get('generation') }
