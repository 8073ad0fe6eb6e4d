-- Opens the next turn. While a generation runs: refuses, or ends that one and opens the turn in one epoch, so that its worker is
-- fenced and nothing can come in between.
-- ARGV: nonce, body hash, jump, data of generation.cancelled for the one that runs ('' to refuse), number of messages,
-- (message data without its generation)*, (session field, value)*
-- Returns OK generation last fresh worker (of the generation that was ended, or '')
--   | OTHER_BODY | UNKNOWN | EXPIRED | RUNNING generation
local nonce, body, jump, cancelled, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if not known() then return { 'UNKNOWN' } end
local seen = get('idem:' .. nonce)
if seen ~= '' then
  if get('body:' .. nonce) ~= body then return { 'OTHER_BODY' } end
  return { 'OK', seen, get('at:' .. nonce), 0, '' }
end
local running, worker, batch = get('generation'), get('worker'), {}
if LIVE[get('state')] then
  if cancelled == '' then return { 'RUNNING', running } end
  batch = { 'generation.cancelled', '{"generation":"' .. running .. '",' .. string.sub(cancelled, 2) }
else
  worker = ''
  if redis.call('EXISTS', EVENTS) == 0 then return { 'EXPIRED' } end
end
local now = now_ms()
local generation = 'g' .. integer(tonumber(string.sub(running, 2)) + 1)
for i = 1, count do
  batch[#batch + 1] = 'message'
  batch[#batch + 1] = '{"generation":"' .. generation .. '",' .. string.sub(ARGV[5 + i], 2)
end
local _, last = open_epoch(now, '', jump, batch)
redis.call('HSET', SESSION, 'state', 'queued', 'generation', generation, 'attempt', 0, 'crashes', 0, 'worker', '',
  'stop', '', 'stop_by', '', 'question', '', 'answer', '', 'since', integer(now), 'expire_at', '',
  'idem:' .. nonce, generation, 'body:' .. nonce, body, 'at:' .. nonce, last, unpack(ARGV, 6 + count))
keep_for_ever()
return { 'OK', generation, last, 1, worker }
