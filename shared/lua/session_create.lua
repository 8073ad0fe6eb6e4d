-- Opens a session with its first messages, queued as g1.
-- ARGV: nonce, body hash, jump, number of messages, (message data)*, (session field, value)*
-- Returns OK generation last fresh | OTHER_BODY | EXISTS | DELETED
local nonce, body, jump, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local state = get('state')
if state ~= '' then
  local seen = get('idem:' .. nonce)
  if state == 'deleted' then
    if seen ~= '' then return { 'DELETED' } end
  elseif seen == '' then
    return { 'EXISTS' }
  elseif get('body:' .. nonce) ~= body then
    return { 'OTHER_BODY' }
  else
    return { 'OK', seen, get('at:' .. nonce), 0 }
  end
end
local now = now_ms()
if redis.call('EXISTS', EVENTS) == 1 then redis.call('DEL', EVENTS) end -- a stray log; else XADD is the first write
local batch = {}
for i = 1, count do
  batch[#batch + 1] = 'message'
  batch[#batch + 1] = ARGV[4 + i]
end
local _, last = open_epoch(now, '', jump, batch)
redis.call('HSET', SESSION, 'state', 'queued', 'generation', 'g1', 'attempt', 0, 'crashes', 0, 'worker', '',
  'stop', '', 'stop_by', '', 'question', '', 'answer', '', 'since', integer(now), 'expire_at', '', 'created', integer(now),
  'idem:' .. nonce, 'g1', 'body:' .. nonce, body, 'at:' .. nonce, last, unpack(ARGV, 5 + count))
keep_for_ever()
return { 'OK', 'g1', last, 1 }
