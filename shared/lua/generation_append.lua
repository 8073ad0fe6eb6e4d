-- The pen-holder appends a batch. Repeating it is harmless: what is there already is skipped.
-- ARGV: token, epoch, first seq, retention ms, tombstone ms, (type, data)*
-- Returns OK last-seq stop answer | BEHIND last-seq | FENCED epoch | ENDED state | GONE
local token, epoch = ARGV[1], ARGV[2]
local hash = redis.call('HMGET', KEYS[2], 'state', 'token', 'epoch', 'last', 'stop')

-- The usual append, with nothing in it that this one can do without, for it is most of what Redis does: one delta, by who
-- holds the pen, right after the last event. Everything else goes on below, where the same rules are spelled out.
local kind, data = ARGV[6], ARGV[7]
if #ARGV == 7 and (kind == 'text.delta' or kind == 'reasoning.delta') and hash[1] == 'running' and token ~= ''
  and hash[2] == token and hash[3] == epoch and string.sub(hash[4], #epoch + 2) + 1 == ARGV[3] + 0 then
  local call, id, time = redis.call, epoch .. '-' .. ARGV[3], redis.call('TIME')
  local at = time[1] .. string.sub('00000' .. time[2], -6, -4) -- ms, without a number to be formatted
  call('XADD', KEYS[1], id, 'type', kind, 'data', data, 'at', at)
  call('PUBLISH', KEYS[3], 'event: ' .. kind .. '\ndata: ' .. data .. '\nid: ' .. id .. '\n\n')
  call('HSET', KEYS[2], 'last', id)
  return { 'OK', ARGV[3] + 0, hash[5] or '', '' }
end

-- prelude

local first, from = tonumber(ARGV[3]), 6
local state = hash[1]
if not state or state == 'deleted' then return { 'GONE' } end
if token == '' or hash[2] ~= token then return { 'FENCED', hash[3] or '' } end
if hash[3] ~= epoch then return { 'FENCED', hash[3] } end
local _, last_seq = split(hash[4])
if first > last_seq + 1 then return { 'BEHIND', last_seq } end
from = from + 2 * (last_seq + 1 - first)
for i = 6, #ARGV - 2, 2 do
  if ENDS[ARGV[i]] then return redis.error_reply('ERR nothing may follow the end of a generation') end
end
for i = from, #ARGV, 2 do
  if ARGV[i] == 'question' then
    local read, question = pcall(cjson.decode, ARGV[i + 1])
    if not read or type(question) ~= 'table' or type(question.id) ~= 'string' then
      return redis.error_reply('ERR the data of a question must be JSON with an id')
    end
  end
end
if from <= #ARGV then
  if not LIVE[state] then return { 'ENDED', state } end
  local now = now_ms()
  local last = write(epoch, last_seq + 1, ARGV, from, now)
  local changes = { 'last', last }
  local function change(...)
    for _, part in ipairs({ ... }) do changes[#changes + 1] = part end
  end
  for i = from, #ARGV, 2 do
    local type = ARGV[i]
    if type == 'question' then
      local asked = cjson.decode(ARGV[i + 1])
      local expires = tonumber(asked.expires_at)
      state = 'waiting'
      change('state', state, 'question', asked.id, 'question_expires_at', expires and integer(expires) or '',
        'answer', '', 'since', integer(now))
    elseif type == 'answer' then
      state = 'running' -- the answer itself stays: whoever gave it may repeat that, and is told the same
      change('state', state, 'question', '', 'since', integer(now))
    elseif ENDS[type] then
      state = ENDS[type]
    end
  end
  redis.call('HSET', SESSION, unpack(changes))
  if not LIVE[state] then close(state, now, tonumber(ARGV[4]), tonumber(ARGV[5])) end
  last_seq = select(2, split(last))
end
return { 'OK', last_seq, hash[5] or '', state == 'waiting' and get('answer') or '' }
