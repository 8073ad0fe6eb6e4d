-- The pen-holder gives a generation back, to be run by another worker. Counts as no crash; an answer that was
-- accepted stays, for the next attempt to use.
-- ARGV: token
-- Returns QUEUED epoch generation | STOP (somebody asked to stop: the holder writes the end itself) | ENDED state |
--         FENCED epoch | GONE
local token = ARGV[1]
if not known() then return { 'GONE' } end
local state, generation = get('state'), get('generation')
if state == 'queued' and token ~= '' and get('released') == token then return { 'QUEUED', get('epoch'), generation } end
if token == '' or get('token') ~= token then return { 'FENCED', get('epoch') } end
if not LIVE[state] then return { 'ENDED', state } end
if get('stop') == generation then return { 'STOP' } end
redis.call('HSET', SESSION, 'state', 'queued', 'token', '', 'released', token, 'worker', '', 'question', '',
  'since', integer(now_ms()))
return { 'QUEUED', get('epoch'), generation }
