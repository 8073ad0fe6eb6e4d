-- Forgets a session. A tombstone keeps its epoch, so that an id never comes back, and its nonces, so that a late repeat of
-- the create does not bring it to life again.
-- ARGV: tombstone ms
-- Returns OK worker | UNKNOWN
if not known() then return { 'UNKNOWN' } end
local worker, epoch = get('worker'), get('epoch')
for _, field in ipairs(redis.call('HKEYS', SESSION)) do
  if string.sub(field, 1, 5) ~= 'idem:' then redis.call('HDEL', SESSION, field) end
end
redis.call('HSET', SESSION, 'state', 'deleted', 'epoch', epoch)
redis.call('PEXPIRE', SESSION, ARGV[1])
redis.call('DEL', EVENTS)
redis.call('PUBLISH', CHANNEL, '')
return { 'OK', worker }
