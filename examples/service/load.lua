-- load: what wrk posts, from a file, and its figures as one line of JSON
-- wrk ... -s load.lua URL -- body-file content-type accept

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  wrk.headers["Content-Type"], wrk.headers["Accept"] = arguments[2], arguments[3]
  file:close()
end

function done(summary, latency)
  local e = summary.errors
  print(string.format('{"per_second": %f, "p50_ms": %f, "p99_ms": %f, "requests": %d, "errors": %d}',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
