-- The "bit" library of LuaJIT (Bit Operations 1.0): signed numbers of 32 bits.

local function make(host)
    local bit = {}

    local function number(value, at, name)
        local n = tonumber(value)
        if n == nil or type(value) == "boolean" then
            error("bad argument #" .. at .. " to '" .. name .. "' (number expected, got " ..
                (value == nil and "no value" or type(value)) .. ")", 4)
        end
        return n
    end

    local function numbers(name, least, ...)
        local given = { ... }
        for at = 1, math.max(least, select("#", ...)) do
            given[at] = number(given[at], at, name)
        end
        return given
    end

    for name, least in pairs({
        arshift = 2, band = 1, bnot = 1, bor = 1, bswap = 1, bxor = 1, lshift = 2, rol = 2, ror = 2,
        rshift = 2, tobit = 1,
    }) do
        bit[name] = function(...)
            local result = host.bit(name, unpack(numbers(name, least, ...)))
            host.limit()
            return result
        end
    end

    function bit.tohex(...)
        local given = numbers("tohex", 1, ...)
        local result = host.tohex(given[1], given[2] or 8)
        host.limit()
        return result
    end

    return bit
end

return make
