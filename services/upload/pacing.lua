-- May one request of this job go to the account now? Returns the seconds to wait; 0: go, counted.
--
-- What may go is a row of slots: at(n) is when the nth request from now may leave. Jobs take slots
-- by start-time fair queueing: each request has a tag, one above its job's request before it and
-- not below the account's clock, which is the tag last admitted; the lowest tag goes first.
--
-- A caller that must wait is promised a slot. The promise gives it no right: a job's turn is taken
-- by whichever of its callers asks first. It says when the job is expected, so that a slot is kept
-- for it, and which slots are given away, so that callers come back one by one.

local state, turns, promises, minute, day = unpack(KEYS)
local job = ARGV[1]
local per_minute, per_day, luck = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local USAGE_SECONDS = 600 -- an older figure counts no more
local SLOW_FROM, LONGEST_GAP = 70, 30 -- percent; seconds between requests at 100 percent
local EASING_SECONDS = 60 -- after a hold
local MINUTE = 61 -- a request may take a second longer to arrive than the one after it
local DAY, BUCKET = 86400, 1800
local LONGEST_TURN = 60 -- for others' turns: by then usage may have changed
local LONGEST_GRACE = 15 -- three sweeps: a batch that was given back is sent again by the sweep
local MOST_PROMISES = 32 -- of one job
local KEEP = 900

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local function text(seconds) return string.format('%.6f', seconds) end

-- The promises still open, by job and in order of time; the one this caller comes back with.

local open, latest, kept_promise = {}, now, 0
local missed = {}
local members = redis.call('ZRANGE', promises, 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  local member, due = members[i], tonumber(members[i + 1])
  local until_, who = string.match(member, '^(%S+) %S+ (.*)$')
  if tonumber(until_) < now then
    redis.call('ZREM', promises, member)
    -- A job that missed one is taken for gone, and holds nobody up with the rest.
    if who ~= job then missed[who] = true end
  elseif who == job and due <= now and kept_promise == 0 then
    redis.call('ZREM', promises, member)
    kept_promise = 1
  else
    open[who] = open[who] or {}
    table.insert(open[who], { due = due, member = member })
    latest = math.max(latest, tonumber(until_))
  end
end
for who in pairs(missed) do
  for _, promise in ipairs(open[who] or {}) do redis.call('ZREM', promises, promise.member) end
  open[who] = nil
end
local own_promises = open[job] or {}
open[job] = nil

-- The slots.

local facts = redis.call('HMGET', state, 'last', 'held', 'rest', 'percent', 'told', 'clock')
for i = 1, 6 do facts[i] = tonumber(facts[i]) or 0 end
local last, held, rest, percent, told, clock = unpack(facts)

local gap = 0
if percent > SLOW_FROM and now - told < USAGE_SECONDS then
  gap = LONGEST_GAP * math.min((percent - SLOW_FROM) / (100 - SLOW_FROM), 1) ^ 2
end
-- All who waited come when a hold ends: a second apart at first, then faster.
local easing = math.min(rest, EASING_SECONDS)
gap = math.max(gap, (easing - (math.max(now, held) - held)) / EASING_SECONDS)

-- A caller may be late by half a gap and the slots after its own stay where they are.
local first = held
if gap > 0 then
  first = math.max(held, last + gap)
  if first < now - gap / 2 then first = now end
end

local free = math.huge
if first > now then free = 0 elseif gap > 0 then free = 1 end

local in_minute = 0
if per_minute > 0 then
  local oldest = redis.call('LINDEX', minute, 0)
  while oldest and tonumber(oldest) <= now - MINUTE do
    redis.call('LPOP', minute)
    oldest = redis.call('LINDEX', minute, 0)
  end
  in_minute = redis.call('LLEN', minute)
  free = math.min(free, math.max(per_minute - in_minute, 0))
end

local in_day, buckets = 0, {}
if per_day > 0 then
  local counts = redis.call('HGETALL', day)
  for i = 1, #counts, 2 do
    local ends = (tonumber(counts[i]) + 1) * BUCKET + DAY
    if ends <= now then
      redis.call('HDEL', day, counts[i])
    else
      in_day = in_day + counts[i + 1]
      table.insert(buckets, { ends = ends, count = tonumber(counts[i + 1]) })
    end
  end
  table.sort(buckets, function(a, b) return a.ends < b.ends end)
  free = math.min(free, math.max(per_day - in_day, 0))
end

local function minute_at(n)
  local place = (n - 1) % per_minute + in_minute - per_minute
  local sent = place >= 0 and redis.call('LINDEX', minute, place)
  return (sent and sent + MINUTE or now) + math.floor((n - 1) / per_minute) * MINUTE
end

local function day_at(n)
  local over = n - (per_day - in_day)
  if over <= 0 then return now end
  for _, bucket in ipairs(buckets) do
    over = over - bucket.count
    if over <= 0 then return bucket.ends end
  end
  return now + DAY
end

local function at(n)
  local when = math.max(first + (n - 1) * gap, now)
  if per_minute > 0 then when = math.max(when, minute_at(n)) end
  if per_day > 0 then when = math.max(when, day_at(n)) end
  return when
end

if free == math.huge then return '0' end

-- The turns.

local tags = {}
local known = redis.call('HGETALL', turns)
for i = 1, #known, 2 do tags[known[i]] = tonumber(known[i + 1]) end

-- A job that comes late to its promises catches up with as many, and not with all it missed.
local function tag_of(who, promised)
  return math.max(tags[who] or clock, clock - promised)
end

local tag = tag_of(job, #own_promises + kept_promise)

-- Requests of others that go before one with the tag `mark`, of those promised a slot before
-- `horizon`: a job counts when it is expected.
local function ahead_of(mark, horizon)
  local count = 0
  for who, theirs in pairs(open) do
    for place = 1, math.min(math.ceil(mark - tag_of(who, #theirs)), #theirs) do
      if theirs[place].due >= horizon then break end
      count = count + 1
    end
  end
  return count
end

local keep = math.ceil(math.max(held, latest) - now) + KEEP

-- Who is expected only when there are new slots loses nothing by this one.
if free > 0 and free > ahead_of(tag, at(free + 1)) then
  clock = math.max(clock, tag)
  redis.call('HSET', turns, job, tag + 1)
  redis.call('HSET', state, 'clock', clock, 'last', text(gap > 0 and first or now))
  if per_minute > 0 then
    redis.call('RPUSH', minute, text(now))
    redis.call('EXPIRE', minute, 2 * MINUTE)
  end
  if per_day > 0 then
    redis.call('HINCRBY', day, math.floor(now / BUCKET), 1)
    redis.call('EXPIRE', day, DAY + 2 * BUCKET)
  end
  for who, theirs in pairs(tags) do
    if who ~= job and not open[who] and theirs <= clock then redis.call('HDEL', turns, who) end
  end
  redis.call('EXPIRE', turns, keep)
  redis.call('EXPIRE', state, keep)
  return '0'
end

-- The first slot that is this job's turn and that none of its callers was promised.
local slack = gap > 0 and gap / 2 or 0.3
local slot
local others = 0
for mine = 0, #own_promises do
  local before
  repeat
    before = others
    slot = at(mine + before + 1)
    others = math.max(ahead_of(tag + mine, slot + slack), before)
  until others == before
  local taken = 0
  for _, promise in ipairs(own_promises) do
    if promise.due <= slot + slack then taken = taken + 1 end
  end
  if taken <= mine then break end
end

local back = slot + luck * (gap > 0 and math.min(gap / 4, 1) or 0.25)
local longest = at(1) + LONGEST_TURN
if back > longest then back = longest + luck * LONGEST_TURN / 4 end
back = math.max(back, now + 0.001)

redis.call('HSET', turns, job, tag)
redis.call('EXPIRE', turns, keep)
redis.call('EXPIRE', state, keep)
if #own_promises < MOST_PROMISES then
  local gone = back + math.min(2 + (back - now), LONGEST_GRACE)
  redis.call('ZADD', promises, text(back), text(gone) .. ' ' .. text(now) .. ' ' .. job)
  latest = math.max(latest, gone)
end
redis.call('EXPIRE', promises, math.ceil(latest - now) + 1)
return text(back - now)
