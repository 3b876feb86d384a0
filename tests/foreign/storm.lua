-- A storm of wrk on one key: `wrk --script storm.lua URL -- KEY`. Prints a line with what came of it: how many requests there
-- were, how many of them failed, how many answers differ from the first one, and that one.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  differing = 0
  wrk.method = "POST"
  wrk.body = '{"amount":1}'
  wrk.headers["content-type"] = "application/json"
  wrk.headers["idempotency-key"] = arguments[1]
end

function response(status, headers, body)
  if first == nil then
    first = body
  elseif body ~= first then
    differing = differing + 1
  end
end

function done(summary, latency, requests)
  local body, differing = nil, 0
  for _, thread in ipairs(threads) do
    local first = thread:get("first")
    if body == nil then
      body = first
    elseif first ~= body then
      differing = differing + 1
    end
    differing = differing + thread:get("differing")
  end
  local errors = summary.errors
  local quoted = (body or ""):gsub("\\", "\\\\"):gsub('"', '\\"')
  print(string.format(
    'storm {"requests":%d,"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"differing":%d,"body":"%s"}',
    summary.requests, errors.status, errors.connect, errors.read, errors.write, errors.timeout, differing, quoted))
end
