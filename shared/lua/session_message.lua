-- Opens the next turn.
-- ARGV: nonce, body hash, jump, message data without its generation, (session field, value)*
-- Returns OK generation last fresh | OTHER_BODY | UNKNOWN | EXPIRED | RUNNING generation
local nonce, body, jump, data = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not known() then return { 'UNKNOWN' } end
local seen = get('idem:' .. nonce)
if seen ~= '' then
  if get('body:' .. nonce) ~= body then return { 'OTHER_BODY' } end
  return { 'OK', seen, get('at:' .. nonce), 0 }
end
if LIVE[get('state')] then return { 'RUNNING', get('generation') } end
if redis.call('EXISTS', EVENTS) == 0 then return { 'EXPIRED' } end
local now = now_ms()
local generation = 'g' .. integer(tonumber(string.sub(get('generation'), 2)) + 1)
data = '{"generation":"' .. generation .. '",' .. string.sub(data, 2)
local _, last = open_epoch(now, '', jump, { 'message', data })
redis.call('HSET', SESSION, 'state', 'queued', 'generation', generation, 'attempt', 0, 'crashes', 0, 'worker', '',
  'stop', '', 'question', '', 'answer', '', 'since', integer(now), 'expire_at', '',
  'idem:' .. nonce, generation, 'body:' .. nonce, body, 'at:' .. nonce, last, unpack(ARGV, 5))
keep_for_ever()
return { 'OK', generation, last, 1 }
