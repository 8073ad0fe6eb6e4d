-- Asks a generation to stop; a queued one is cancelled on the spot.
-- ARGV: generation ('' for the current one), jump, data of generation.cancelled, retention ms, tombstone ms, who asks
-- Returns CANCELLED id generation | STOPPING worker generation | DONE state generation | OTHER state generation | UNKNOWN
local asked, jump, data = ARGV[1], ARGV[2], ARGV[3]
if not known() then return { 'UNKNOWN' } end
local state, generation = get('state'), get('generation')
if asked ~= '' and asked ~= generation then return { 'OTHER', state, generation } end
if not LIVE[state] then return { 'DONE', state, generation } end
if state == 'queued' then
  local id = end_by_decree(now_ms(), jump, 'generation.cancelled', data, tonumber(ARGV[4]), tonumber(ARGV[5]))
  return { 'CANCELLED', id, generation }
end
if get('stop') ~= generation then redis.call('HSET', SESSION, 'stop', generation, 'stop_by', ARGV[6]) end
return { 'STOPPING', get('worker'), generation }
