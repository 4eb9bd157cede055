-- What a script sees of Lua and of the server: the names that Redis 7.0 gives it, and nothing else.
--
-- Loaded once for each interpreter, with the host's functions and the libraries beside this file.  No object
-- of the host ever reaches a script, and no function of the host is called with anything but strings and
-- numbers: only then can it not run out of Lua's memory at a moment that it could not survive.
--
-- While a script runs, a hook looks every few thousand instructions whether it must stop.  Once it must, the
-- hook raises an error at every instruction, so that no pcall can keep it alive.

local host, libraries = ...

local error, getmetatable, next, pairs, pcall = error, getmetatable, next, pairs, pcall
local rawget, rawset, select, setmetatable, tostring = rawget, rawset, select, setmetatable, tostring
local type, unpack, xpcall, loadstring, setfenv = type, unpack, xpcall, loadstring, setfenv
local collectgarbage, concat, format, byte = collectgarbage, table.concat, string.format, string.byte
local getinfo, sethook = debug.getinfo, debug.sethook

local OURS = "=redtier"        -- the source of this file and its libraries
local STOPPED = "the script was stopped"
local NO_MEMORY = "not enough memory"  -- Lua's own words
local INSTRUCTIONS = 10000     -- between two looks
local READONLY = "Attempt to modify a readonly table"
local DEPTH = 400              -- of a reply

local resp = 2                 -- the version of RESP that the script has chosen

-- Stopping

local function hook()
    if host.over() then
        sethook(hook, "", 1)
        error(STOPPED, 0)
    end
end

local function watch(thread)
    if thread then
        sethook(thread, hook, "", INSTRUCTIONS)
    else
        sethook(hook, "", INSTRUCTIONS)
    end
end

-- Whether an error must reach the host whatever the script does with it.
local function fatal(problem)
    if problem == NO_MEMORY then
        host.out_of_memory()
        return true
    end
    return problem == STOPPED or host.over()  -- by now, whatever the error is
end

local function stop()
    sethook(hook, "", 1)
    error(STOPPED, 0)
end

-- Tables that can't be changed: empty ones in front of the real ones, whose metatables scripts can't reach.

local real = setmetatable({}, { __mode = "k" })   -- by what stands in front of it
local shown = setmetatable({}, { __mode = "k" })  -- what getmetatable gives of it

local function refuse()
    error(READONLY, 2)
end

local function protect(inner)
    local front = setmetatable({}, { __index = inner, __newindex = refuse })
    real[front] = inner
    return front
end

local function missing(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end

local globals = setmetatable({}, { __index = missing })
local environment = protect(globals)
shown[environment] = protect({ __index = missing })

-- What the library functions that write past a metatable have left in front of a table is dropped.
local function clean()
    for front in pairs(real) do
        while next(front) ~= nil do
            rawset(front, next(front), nil)
        end
    end
end

-- Lua's own functions

for _, name in ipairs({
    "assert", "error", "gcinfo", "ipairs", "next", "rawequal", "select", "tonumber", "tostring", "type",
    "unpack", "_VERSION",
}) do
    globals[name] = _G[name]
end
globals._G = environment

local function need_value(count, name)
    if count == 0 then
        error("bad argument #1 to '" .. name .. "' (value expected)", 3)
    end
end

function globals.pcall(...)
    if select("#", ...) == 0 then
        return false, "attempt to call a boolean value"
    end
    local function settle(ok, problem, ...)
        if ok then
            return true, problem, ...
        end
        if fatal(problem) then
            error(problem, 0)
        end
        if type(problem) == "table" and type(rawget(problem, "err")) == "string" then
            return false, problem.err  -- as it was before Redis raised tables
        end
        return false, problem
    end
    return settle(pcall(...))
end

function globals.xpcall(f, handler)
    local function guarded(problem)
        if fatal(problem) then
            return problem
        end
        return handler(problem)
    end
    local function settle(ok, problem, ...)
        if not ok and fatal(problem) then
            error(problem, 0)
        end
        return ok, problem, ...
    end
    return settle(xpcall(f, guarded))
end

globals.next = function(t, key)
    if type(t) ~= "table" then
        error("bad argument #1 to 'next' (table expected, got " .. (t == nil and "no value" or type(t)) .. ")", 2)
    end
    return next(real[t] or t, key)
end

function globals.pairs(t)
    if type(t) ~= "table" then
        error("bad argument #1 to 'pairs' (table expected, got " .. (t == nil and "nil" or type(t)) .. ")", 2)
    end
    return next, real[t] or t, nil
end

function globals.rawget(t, key)
    if type(t) ~= "table" then
        error("bad argument #1 to 'rawget' (table expected, got " .. (t == nil and "nil" or type(t)) .. ")", 2)
    end
    return rawget(real[t] or t, key)
end

function globals.rawset(t, key, value)
    if real[t] then
        error(READONLY, 0)
    end
    if type(t) ~= "table" then
        error("bad argument #1 to 'rawset' (table expected, got " .. (t == nil and "nil" or type(t)) .. ")", 2)
    end
    return rawset(t, key, value)
end

function globals.getmetatable(...)
    need_value(select("#", ...), "getmetatable")
    local t = (...)
    if real[t] then
        return shown[t]
    end
    return getmetatable(t)
end

function globals.setmetatable(...)
    local t, meta = ...
    if real[t] then
        error(READONLY, 0)
    end
    if type(t) ~= "table" then
        error("bad argument #1 to 'setmetatable' (table expected, got " .. type(t) .. ")", 2)
    end
    if select("#", ...) < 2 or meta ~= nil and type(meta) ~= "table" then
        error("bad argument #2 to 'setmetatable' (nil or table expected)", 2)
    end
    if getmetatable(t) ~= nil and rawget(getmetatable(t), "__metatable") ~= nil then
        error("cannot change a protected metatable", 2)
    end
    return setmetatable(t, meta)
end

function globals.collectgarbage(option, argument)
    if option == "stop" or option == "setpause" or option == "setstepmul" then
        return 0  -- it would outlive the script
    end
    return collectgarbage(option, argument)
end

-- Text only: what is compiled already could do anything to the interpreter.
local function compile(text, name)
    if byte(text) == 27 then
        return nil, "precompiled scripts are not taken"
    end
    local chunk, problem = loadstring(text, name)
    if chunk then
        setfenv(chunk, environment)
    end
    return chunk, problem
end

function globals.loadstring(text, name)
    if type(text) == "number" then
        text = tostring(text)
    elseif type(text) ~= "string" then
        error("bad argument #1 to 'loadstring' (string expected, got " ..
            (text == nil and "no value" or type(text)) .. ")", 2)
    end
    return compile(text, name or text)
end

function globals.load(reader, name)
    if type(reader) ~= "function" then
        error("bad argument #1 to 'load' (function expected, got " ..
            (reader == nil and "no value" or type(reader)) .. ")", 2)
    end
    local pieces = {}
    while true do
        local piece = reader()
        if piece == nil or piece == "" then
            return compile(concat(pieces), name or "=(load)")
        end
        if type(piece) ~= "string" then
            return nil, "reader function must return a string"
        end
        pieces[#pieces + 1] = piece
    end
end

local function library(inner)
    local copy = {}
    for name, value in pairs(inner) do
        copy[name] = value
    end
    return copy
end

local create, resume, status = coroutine.create, coroutine.resume, coroutine.status
local threads = library(coroutine)

local function settle_thread(ok, problem, ...)
    if not ok and fatal(problem) then
        stop()
    end
    return ok, problem, ...
end

function threads.create(f)
    if type(f) ~= "function" or getinfo(f, "S").what == "C" then
        error("bad argument #1 to 'create' (Lua function expected)", 2)
    end
    local thread = create(f)
    watch(thread)
    return thread
end

function threads.resume(thread, ...)
    if type(thread) ~= "thread" then
        error("bad argument #1 to 'resume' (coroutine expected)", 2)
    end
    return settle_thread(resume(thread, ...))
end

function threads.wrap(f)
    local thread = threads.create(f)
    local function settle(ok, problem, ...)
        if not ok then
            error(problem, fatal(problem) and 0 or 3)
        end
        return problem, ...
    end
    return function(...)
        return settle(resume(thread, ...))
    end
end

local mathematics = library(math)

local function random_below(low, high)
    local r = host.random()
    host.limit()
    return math.floor(r * (high - low + 1)) + low
end

function mathematics.random(...)
    local low, high = ...
    if select("#", ...) > 2 then
        error("wrong number of arguments", 2)
    end
    if low == nil then
        local r = host.random()
        host.limit()
        return r
    end
    if type(low) ~= "number" then
        error("bad argument #1 to 'random' (number expected, got " .. type(low) .. ")", 2)
    end
    if high == nil then
        if math.floor(low) < 1 then
            error("bad argument #1 to 'random' (interval is empty)", 2)
        end
        return random_below(1, math.floor(low))
    end
    if type(high) ~= "number" then
        error("bad argument #2 to 'random' (number expected, got " .. type(high) .. ")", 2)
    end
    if math.floor(low) > math.floor(high) then
        error("bad argument #2 to 'random' (interval is empty)", 2)
    end
    return random_below(math.floor(low), math.floor(high))
end

function mathematics.randomseed(seed)
    if type(seed) ~= "number" then
        error("bad argument #1 to 'randomseed' (number expected, got " ..
            (seed == nil and "no value" or type(seed)) .. ")", 2)
    end
    host.seed(seed)
    host.limit()
end

globals.string = protect(library(string))
globals.table = protect(library(table))
globals.math = protect(mathematics)
globals.coroutine = protect(threads)
for name, make in pairs(libraries) do
    globals[name] = protect(make(host, protect))
end
do
    local meta = getmetatable("")
    meta.__index = globals.string
    meta.__metatable = protect({ __index = globals.string })
end

-- redis.*

local redis = {
    LOG_DEBUG = 0,
    LOG_VERBOSE = 1,
    LOG_NOTICE = 2,
    LOG_WARNING = 3,
    REPL_NONE = 0,
    REPL_AOF = 1,
    REPL_SLAVE = 2,
    REPL_REPLICA = 2,
    REPL_ALL = 3,
    REDIS_VERSION = host.version,
    REDIS_VERSION_NUM = host.version_number,
}

-- An error's text as a table; without a code of its own ("-CODE text") it gets the general one.
local function failure(text)
    text = text:gsub("[\r\n]+$", "")
    local code, rest = text:match("^%-(%S+) (.*)$")
    if code then
        return { err = code .. " " .. rest }
    end
    if byte(text) == 45 then
        text = text:sub(2)
    end
    return { err = "ERR " .. text }
end

local NO_ARGUMENT = "Please specify at least one argument for this redis lib call"
local BAD_ARGUMENT = "Lua redis lib command arguments must be strings or integers"

-- The arguments of a command as strings; nil and an error's text where they can't be that.
local function command_of(...)
    local count = select("#", ...)
    if count == 0 then
        return nil, NO_ARGUMENT
    end
    local argv = { ... }
    for at = 1, count do
        local kind = type(argv[at])
        if kind == "number" then
            argv[at] = format("%.17g", argv[at])
        elseif kind ~= "string" then
            return nil, BAD_ARGUMENT
        end
    end
    return argv, count
end

local OK, FAILED = 0, 1  -- what the host says of a call; anything else: stop

function redis.call(...)
    local argv, count = command_of(...)
    if not argv then
        error(failure(count))
    end
    local how, value = host.call(unpack(argv, 1, count))
    host.limit()
    if how == OK then
        return value
    elseif how == FAILED then
        error({ err = value })
    end
    stop()
end

function redis.pcall(...)
    local argv, count = command_of(...)
    if not argv then
        return failure(count)
    end
    local how, value = host.call(unpack(argv, 1, count))
    host.limit()
    if how == OK then
        return value
    elseif how == FAILED then
        return { err = value, ignore_error_stats_update = true }
    end
    stop()
end

local WRONG_ARGUMENTS = "wrong number or type of arguments"

function redis.error_reply(...)
    local text = (...)
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return failure(WRONG_ARGUMENTS)
    end
    return failure(text)
end

function redis.status_reply(...)
    local text = (...)
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return failure(WRONG_ARGUMENTS)
    end
    return { ok = text }
end

function redis.sha1hex(...)
    if select("#", ...) ~= 1 then
        error(failure("wrong number of arguments"))
    end
    local text = (...)
    if type(text) == "number" then
        text = tostring(text)
    elseif type(text) ~= "string" then
        text = ""
    end
    local digest = host.sha1hex(text)
    host.limit()
    return digest
end

function redis.log(...)
    local count = select("#", ...)
    if count < 2 then
        error(failure("redis.log() requires two arguments or more."))
    end
    local level = (...)
    if type(level) ~= "number" then
        error(failure("First argument must be a number (log level)."))
    end
    if level < redis.LOG_DEBUG or level > redis.LOG_WARNING then
        error(failure("Invalid debug level."))
    end
    local words = {}
    for at = 2, count do
        local word = (select(at, ...))
        if type(word) == "string" or type(word) == "number" then
            words[#words + 1] = word
        end
    end
    host.log(level, concat(words, " "))
    host.limit()
end

function redis.setresp(...)
    local version = (...)
    if select("#", ...) ~= 1 then
        error(failure("redis.setresp() requires one argument."))
    end
    version = tonumber(version)
    if version ~= 2 and version ~= 3 then
        error(failure("RESP version must be 2 or 3."))
    end
    resp = version
    host.setresp(version)
end

function redis.set_repl(...)
    local flags = (...)
    if select("#", ...) ~= 1 then
        error(failure("redis.set_repl() requires two arguments."))
    end
    flags = tonumber(flags) or 0
    if flags < 0 or flags > redis.REPL_ALL then
        error(failure("Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE."))
    end
end

function redis.replicate_commands()
    return true
end

function redis.breakpoint()
    return false
end

function redis.debug() end

function redis.acl_check_cmd(...)
    local argv, count = command_of(...)
    if not argv then
        error(failure(count))
    end
    local known = host.is_command(unpack(argv, 1, count))
    host.limit()
    if not known then
        error(failure("Invalid command passed to redis.acl_check_cmd()"))
    end
    return true
end

globals.redis = protect(redis)

-- Running

-- The place in the script where an error was raised, looking past this file and its libraries.
local function place()
    local level = 3
    local info = getinfo(level, "Sl")
    if info and info.what == "C" then
        level = level + 1
        info = getinfo(level, "Sl")
    end
    while info and info.source == OURS do
        level = level + 1
        info = getinfo(level, "Sl")
    end
    return info
end

local function on_error(problem)
    if problem == STOPPED or problem == NO_MEMORY then
        return problem
    end
    if type(problem) ~= "table" then
        problem = { err = "ERR " .. tostring(problem) }
    end
    local text = rawget(problem, "err")
    local found = { err = type(text) == "string" and text or "ERR unknown error" }
    local info = place()
    if info then
        found.source, found.line = info.source, info.currentline
    end
    return found
end

-- A value as the host reads it: RESP3, where what RESP2 lacks is told apart by its table's only field.

local function line(text)
    return (text:gsub("[\r\n]", " "))
end

local write

local function write_table(out, value, depth)
    if depth > DEPTH then
        out[#out + 1] = "-ERR reached lua stack limit\r\n"
        return
    end
    local text = rawget(value, "err")
    if type(text) == "string" then
        out[#out + 1] = "-" .. line(text) .. "\r\n"
        return
    end
    text = rawget(value, "ok")
    if type(text) == "string" then
        out[#out + 1] = "+" .. line(text) .. "\r\n"
        return
    end
    local number = rawget(value, "double")
    if type(number) == "number" then
        out[#out + 1] = "," .. format("%.17g", number) .. "\r\n"
        return
    end
    local map = rawget(value, "map")
    if type(map) == "table" then
        out[#out + 1] = ""
        local at, count = #out, 0
        for name, item in next, map do
            count = count + 1
            write(out, name, depth + 1)
            write(out, item, depth + 1)
        end
        out[at] = "%" .. count .. "\r\n"
        return
    end
    local set = rawget(value, "set")
    if type(set) == "table" then
        out[#out + 1] = ""
        local at, count = #out, 0
        for item in next, set do
            count = count + 1
            write(out, item, depth + 1)
        end
        out[at] = "~" .. count .. "\r\n"
        return
    end
    text = rawget(value, "big_number")
    if type(text) == "string" then
        out[#out + 1] = "(" .. line(text) .. "\r\n"
        return
    end
    local verbatim = rawget(value, "verbatim_string")
    if type(verbatim) == "table" then
        local kind, body = rawget(verbatim, "format"), rawget(verbatim, "string")
        if type(kind) == "string" and type(body) == "string" then
            kind = (kind .. "   "):sub(1, 3)
            out[#out + 1] = "=" .. (#body + 4) .. "\r\n" .. kind .. ":"
            out[#out + 1] = body
            out[#out + 1] = "\r\n"
            return
        end
    end
    out[#out + 1] = ""
    local at, count = #out, 0
    while true do
        local item = rawget(value, count + 1)
        if item == nil then
            break
        end
        count = count + 1
        write(out, item, depth + 1)
    end
    out[at] = "*" .. count .. "\r\n"
end

function write(out, value, depth)
    local kind = type(value)
    if kind == "string" then
        out[#out + 1] = "$" .. #value .. "\r\n"
        out[#out + 1] = value
        out[#out + 1] = "\r\n"
    elseif kind == "number" then
        out[#out + 1] = format(":%d\r\n", value)
    elseif kind == "boolean" then
        if resp == 3 then
            out[#out + 1] = value and "#t\r\n" or "#f\r\n"
        else
            out[#out + 1] = value and ":1\r\n" or "_\r\n"
        end
    elseif kind == "table" then
        write_table(out, value, depth)
    else
        out[#out + 1] = "_\r\n"
    end
end

local function reply(value)
    local out = {}
    write(out, value, 1)
    return concat(out)
end

-- The host's two entries

local runner = {}

-- A script's function as bytes, for the host to look at; nil and what is wrong with it.
function runner.compile(text)
    local chunk, problem = compile(text, "@user_script")
    if not chunk then
        return nil, problem
    end
    return string.dump(chunk)
end

function runner.load(code)
    return setfenv(loadstring(code), environment)
end

-- Runs a script: true and its reply, or false and what is known of its error.
function runner.run(chunk, keys, argv)
    host.limit()
    clean()
    globals.KEYS, globals.ARGV = keys, argv
    resp = 2
    watch()
    local ok, value = xpcall(chunk, on_error)
    if ok then
        ok, value = xpcall(function() return reply(value) end, on_error)
    end
    sethook()
    host.no_limit()
    if ok then
        return true, value
    end
    fatal(value)
    if type(value) == "table" then
        return false, value.err, value.source, value.line
    end
    return false, value
end

return runner
