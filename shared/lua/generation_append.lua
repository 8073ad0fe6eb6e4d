-- The pen-holder appends a batch. Repeating it is harmless: what is there already is skipped.
-- ARGV: token, epoch, first seq, retention ms, tombstone ms, (type, data)*
-- Returns OK last-seq stop answer | BEHIND last-seq | FENCED epoch | ENDED state | GONE
local token, epoch, first = ARGV[1], ARGV[2], tonumber(ARGV[3])
local from = 6
local hash = redis.call('HMGET', SESSION, 'state', 'token', 'epoch', 'last', 'stop', 'answer')
local state = hash[1]
if not state or state == 'deleted' then return { 'GONE' } end
if token == '' or hash[2] ~= token then return { 'FENCED', hash[3] or '' } end
local last_epoch, last_seq = split(hash[4] or '0-0')
if last_epoch ~= epoch then last_seq = 0 end
if first > last_seq + 1 then return { 'BEHIND', last_seq } end
local skip = last_seq + 1 - first
from = from + 2 * skip
if from <= #ARGV then
  if not LIVE[state] then return { 'ENDED', state } end
  local now = now_ms()
  local last = write(epoch, last_seq + 1, ARGV, from, now)
  local changes = { 'last', last }
  for i = from, #ARGV, 2 do
    local type = ARGV[i]
    if type == 'question' then
      local question = cjson.decode(ARGV[i + 1])
      local expires = question.expires_at and question.expires_at ~= cjson.null and integer(question.expires_at) or ''
      changes = { 'last', last, 'state', 'waiting', 'question', question.id, 'question_expires_at', expires,
        'answer', '', 'since', integer(now) }
    elseif type == 'answer' then
      changes = { 'last', last, 'state', 'running', 'question', '', 'answer', '', 'since', integer(now) }
    elseif ENDS[type] then
      state = ENDS[type]
    end
  end
  redis.call('HSET', SESSION, unpack(changes))
  if not LIVE[state] then close(state, now, tonumber(ARGV[4]), tonumber(ARGV[5])) end
  last_seq = select(2, split(last))
end
return { 'OK', last_seq, hash[5] or '', get('answer') }
