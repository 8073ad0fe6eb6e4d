-- Part of every verb: at its top, or where it says so (scripts.py).
-- KEYS[1] events stream, KEYS[2] session hash, KEYS[3] live channel. One hash tag, so one Cluster slot.
-- All checks come before the first write: Redis does not roll back. XADD is the first write, so that a full memory
-- refuses cleanly. Event data is passed through, never re-encoded (cjson would turn [] into {}).
local EVENTS, SESSION, CHANNEL = KEYS[1], KEYS[2], KEYS[3]
local LIVE = { queued = true, running = true, waiting = true }
local ENDS = {
  ['generation.completed'] = 'completed',
  ['generation.failed'] = 'failed',
  ['generation.cancelled'] = 'cancelled',
}

local function get(field)
  return redis.call('HGET', SESSION, field) or ''
end

local function known()
  local state = get('state')
  return state ~= '' and state ~= 'deleted'
end

local function integer(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function last_id()
  local last = get('last')
  return last ~= '' and last or '0-0'
end

local function split(id)
  local epoch, seq = string.match(id, '^(%d+)-(%d+)$')
  return epoch, tonumber(seq)
end

-- Appends batch (type, data, type, data, ...) as seq `first` and on, and publishes the very bytes an SSE reader is sent.
local function write(epoch, first, batch, from, now)
  local frames, at = {}, integer(now)
  for i = from, #batch, 2 do
    local id = epoch .. '-' .. integer(first + (i - from) / 2)
    redis.call('XADD', EVENTS, id, 'type', batch[i], 'data', batch[i + 1], 'at', at)
    frames[#frames + 1] = 'event: ' .. batch[i] .. '\ndata: ' .. batch[i + 1] .. '\nid: ' .. id .. '\n\n'
  end
  redis.call('PUBLISH', CHANNEL, table.concat(frames))
  return epoch .. '-' .. integer(first + (#batch - from - 1) / 2)
end

-- Takes the pen: a new epoch whose first event names the id before it. `jump` is the caller's random number; Lua's own is
-- deterministic, and a counter would be reused after a failover that rolled the hash back.
local function open_epoch(now, token, jump, batch)
  local epoch = (tonumber(get('epoch')) or 0) + 1
  if now > epoch then epoch = now end
  epoch = integer(epoch + tonumber(jump))
  batch[2] = '{"prev":"' .. last_id() .. '",' .. string.sub(batch[2], 2)
  local last = write(epoch, 1, batch, 1, now)
  redis.call('HSET', SESSION, 'epoch', epoch, 'token', token, 'last', last)
  return epoch, last
end

local function keep_for_ever()
  redis.call('PERSIST', EVENTS)
  redis.call('PERSIST', SESSION)
end

-- The state after a terminal. The token stays, so that a repeat of the last append is answered OK.
local function close(state, now, retention, tombstone)
  redis.call('HSET', SESSION, 'state', state, 'worker', '', 'question', '',
    'since', integer(now), 'expire_at', integer(now + retention))
  redis.call('PEXPIRE', EVENTS, integer(retention))
  redis.call('PEXPIRE', SESSION, integer(retention + tombstone))
end

-- A terminal by somebody who did not hold the pen: takes it for this one event, and leaves it to nobody.
local function end_by_decree(now, jump, type, data, retention, tombstone)
  local full = '{"generation":"' .. get('generation') .. '",' .. string.sub(data, 2)
  local _, id = open_epoch(now, '', jump, { type, full })
  close(ENDS[type], now, retention, tombstone)
  return id
end
