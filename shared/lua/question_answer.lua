-- Stores the answer to the open question; the pen-holder will append it. The first one wins.
-- ARGV: nonce, question id, answer as JSON with the nonce in it
-- Returns OK worker | GONE | UNKNOWN
local nonce, question, answer = ARGV[1], ARGV[2], ARGV[3]
if not known() then return { 'UNKNOWN' } end
if get('state') ~= 'waiting' or get('question') ~= question then return { 'GONE' } end
local expires = tonumber(get('question_expires_at'))
if expires and now_ms() > expires then return { 'GONE' } end
local given = get('answer')
if given ~= '' and cjson.decode(given).nonce ~= nonce then return { 'GONE' } end
if given == '' then redis.call('HSET', SESSION, 'answer', answer) end
return { 'OK', get('worker') }
