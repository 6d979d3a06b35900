-- Uploads for wrk: each thread has one connection, on which it sends a body and pauses after the answer, PAUSE_MS on
-- average. Latency counts from the end of the pause. The last line of the output is JSON.
--
--     wrk -t 240 -c 240 -d 10 --timeout 60 -s uploads.lua URL -- PAUSE_MS BODY...
--
-- A body is a file with a form whose boundary is `b`.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } timespec; int clock_gettime(int, timespec *);")
local spec, threads = ffi.new("timespec"), {}

local function now_ms()
    ffi.C.clock_gettime(1, spec) -- CLOCK_MONOTONIC
    return tonumber(spec.s) * 1e3 + tonumber(spec.ns) / 1e6
end

function setup(thread)
    table.insert(threads, thread)
    thread:set("seed", #threads)
end

function init(arguments)
    math.randomseed(seed)
    pause_ms, bodies, answers = tonumber(arguments[1]), {}, ""
    for place = 2, #arguments do
        local file = assert(io.open(arguments[place], "rb"))
        table.insert(bodies, file:read("*a"))
        file:close()
    end
end

function delay()
    local pause = math.floor(-math.log(1 - math.random()) * pause_ms)
    planned = now_ms() + pause
    return pause
end

function request()
    local headers = { ["Content-Type"] = "multipart/form-data; boundary=b" }
    return wrk.format("POST", nil, headers, bodies[math.random(#bodies)])
end

function response(status)
    answers = answers .. string.format("%d %.1f\n", status, now_ms() - planned)
end

function done(summary)
    local latencies, parts = {}, {}
    for _, thread in ipairs(threads) do
        for status, latency in thread:get("answers"):gmatch("(%d+) ([%d.]+)") do
            latencies[status] = latencies[status] or {}
            table.insert(latencies[status], tonumber(latency))
        end
    end
    for status, values in pairs(latencies) do
        table.sort(values)
        local function at(share)
            return values[math.ceil(share * #values)]
        end
        local part = '"%s": {"per_s": %.1f, "p50": %.1f, "p95": %.1f, "p99": %.1f}'
        local per_s = #values / summary.duration * 1e6
        table.insert(parts, part:format(status, per_s, at(0.5), at(0.95), at(0.99)))
    end
    local errors = summary.errors
    table.insert(parts, ('"lost": %d'):format(errors.connect + errors.read + errors.write + errors.timeout))
    print("{" .. table.concat(parts, ", ") .. "}")
end
