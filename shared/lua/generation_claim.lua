-- A worker takes the pen of a queued generation.
-- ARGV: token, generation, worker, jump
-- Returns OK epoch attempt | NO state generation | UNKNOWN
local token, generation, worker, jump = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not known() then return { 'UNKNOWN' } end
local state = get('state')
if get('token') == token and LIVE[state] then return { 'OK', get('epoch'), get('attempt') } end
if state ~= 'queued' or get('generation') ~= generation then return { 'NO', state, get('generation') } end
local now = now_ms()
local attempt = integer(tonumber(get('attempt')) + 1)
local model = string.gsub(cjson.encode(get('model')), '\\/', '/')
local data = '{"generation":"' .. generation .. '","attempt":' .. attempt .. ',"model":' .. model .. '}'
local epoch = open_epoch(now, token, jump, { 'generation.started', data })
redis.call('HSET', SESSION, 'state', 'running', 'worker', worker, 'attempt', attempt, 'since', integer(now))
return { 'OK', epoch, attempt }
