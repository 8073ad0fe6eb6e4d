-- Stores the answer to the open question; the pen-holder will append it. The first one wins.
-- ARGV: nonce, question id, answer as JSON with the nonce in it
-- Returns OK worker | GONE | UNKNOWN
local nonce, question, answer = ARGV[1], ARGV[2], ARGV[3]
if not known() then return { 'UNKNOWN' } end
local given = get('answer')
if given ~= '' then
  local stored = cjson.decode(given)
  if stored.nonce == nonce and stored.question == question then return { 'OK', get('worker') } end
end
if get('state') ~= 'waiting' or get('question') ~= question or given ~= '' then return { 'GONE' } end
local expires = tonumber(get('question_expires_at'))
if expires and now_ms() > expires then return { 'GONE' } end
redis.call('HSET', SESSION, 'answer', answer)
return { 'OK', get('worker') }
