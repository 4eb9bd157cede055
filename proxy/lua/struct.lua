-- The "struct" library (Roberto Ierusalimschy's, version 0.2): values in a binary layout that a format tells.

local MAX_INTEGER = 32   -- bytes of an integer
local MAX_ALIGN = 16
local SIZES = { b = 1, B = 1, h = 2, H = 2, l = 8, L = 8, T = 8, f = 4, d = 8 }
local SIGNED = { b = true, h = true, l = true, i = true }

local function make(host)
    local struct = {}
    local type, error, tonumber, tostring, select, pcall = type, error, tonumber, tostring, select, pcall
    local byte, char, sub, find, floor, concat = string.byte, string.char, string.sub, string.find,
        math.floor, table.concat

    local function fail(text)
        error({ fault = text }, 0)
    end

    local function bad(at, name, text)
        fail("bad argument #" .. at .. " to '" .. name .. "' (" .. text .. ")")
    end

    -- Calls ``step(option, size, padding, little)`` for each option of a format that stands for data.
    local function walk(name, layout, step)
        local at, little, align, total = 1, true, 1, 0
        local function digits(default)
            local first, last = find(layout, "^%d+", at)
            if not first then
                return default
            end
            at = last + 1
            local value = tonumber(sub(layout, first, last))
            if value > 2147483647 then
                fail("integral size overflow")
            end
            return value
        end
        while at <= #layout do
            local option = sub(layout, at, at)
            local size
            at = at + 1
            if option == "i" or option == "I" then
                size = digits(4)
                if size > MAX_INTEGER then
                    fail("integral size " .. size .. " is larger than limit of " .. MAX_INTEGER)
                end
            elseif option == "c" then
                size = digits(1)
            elseif option == "s" or option == " " then
                size = 0
            elseif option == "x" then
                size = 1
            elseif option == "<" then
                little = true
            elseif option == ">" then
                little = false
            elseif option == "!" then
                align = digits(8)
                if align == 0 or 2 ^ floor(math.log(align) / math.log(2) + 0.5) ~= align then
                    fail("alignment " .. align .. " is not a power of 2")
                end
            else
                size = SIZES[option]
                if not size then
                    bad(1, name, "invalid format option '" .. option .. "'")
                end
            end
            if size and option ~= " " then
                local padding = 0
                local bound = size < align and size or align
                if bound > 1 and option ~= "c" and option ~= "s" and option ~= "x" then
                    padding = (bound - total % bound) % bound
                end
                total = total + padding
                total = total + step(option, size, padding, little)
            end
        end
        return total
    end

    local function integer_bytes(value, size, little)
        value = value < 0 and math.ceil(value) or floor(value)
        local negative = value < 0
        local out = {}
        local low = value % 2 ^ 32
        local high = (value - low) / 2 ^ 32 % 2 ^ 32
        for each = 1, size do
            local part = each <= 4 and low or high
            local digit = each > 8 and 0 or floor(part / 256 ^ ((each - 1) % 4)) % 256
            out[little and each or size + 1 - each] = char(digit)
        end
        return concat(out)
    end

    local function checked_text(value, at, name, total)
        if type(value) == "number" then
            return tostring(value)
        elseif type(value) ~= "string" then
            bad(at, name, "string expected, got " .. (at > total and "no value" or type(value)))
        end
        return value
    end

    local function checked_number(value, at, name)
        local n = type(value) ~= "table" and type(value) ~= "boolean" and tonumber(value) or nil
        if n == nil then
            bad(at, name, "number expected, got " .. type(value))
        end
        return n
    end

    local function pack(count, layout, ...)
        layout = checked_text(layout, 1, "pack", count)
        local given, taken, out = { ... }, 0, {}
        walk("pack", layout, function(option, size, padding, little)
            out[#out + 1] = ("\0"):rep(padding)
            if option == "x" then
                out[#out + 1] = "\0"
                return 1
            end
            taken = taken + 1
            local value = given[taken]
            if option == "c" or option == "s" then
                local text = checked_text(value, taken + 1, "pack", count)
                if option == "s" then
                    out[#out + 1] = text .. "\0"
                    return #text + 1
                end
                if size == 0 then
                    size = #text
                end
                if #text < size then
                    bad(taken + 2, "pack", "string too short")
                end
                out[#out + 1] = sub(text, 1, size)
                return size
            end
            value = checked_number(value, taken + 1, "pack")
            if option == "f" or option == "d" then
                local packed = host.pack_real(size, value)
                host.limit()
                out[#out + 1] = little and packed:reverse() or packed
            else
                out[#out + 1] = integer_bytes(value, size, little)
            end
            return size
        end)
        return concat(out)
    end

    local function integer_of(text, signed, little)
        local size = #text
        local low, high = 0, 0
        for each = size < 8 and size or 8, 1, -1 do
            local digit = byte(text, little and each or size + 1 - each)
            if each > 4 then
                high = high * 256 + digit
            else
                low = low * 256 + digit
            end
        end
        if signed then
            local top = byte(text, little and size or 1)
            if size >= 8 and high >= 2 ^ 31 then
                high = high - 2 ^ 32
            elseif size < 8 and top and top >= 128 then
                if size > 4 then
                    high = high - 256 ^ (size - 4)
                else
                    low = low - 256 ^ size
                end
            end
        end
        return high * 2 ^ 32 + low
    end

    local function unpack_values(count, layout, text, offset)
        layout = checked_text(layout, 1, "unpack", count)
        text = checked_text(text, 2, "unpack", count)
        offset = offset == nil and 1 or checked_number(offset, 3, "unpack")
        if offset < 1 then
            bad(3, "unpack", "offset must be 1 or greater")
        end
        local position, found, filled = floor(offset) - 1, {}, 0
        local start = position
        walk("unpack", layout, function(option, size, padding, little)
            position = position + padding
            if position + size > #text or position > #text then
                bad(2, "unpack", "data string too short")
            end
            local before = position
            if option == "x" then
                position = position + 1
                return 1
            elseif option == "s" then
                local stop = find(text, "\0", position + 1, true)
                if not stop then
                    fail("unfinished string in data")
                end
                filled = filled + 1
                found[filled] = sub(text, position + 1, stop - 1)
                position = stop
                return position - before
            elseif option == "c" then
                if size == 0 then
                    local previous = found[filled]
                    if filled == 0 or type(previous) ~= "number" then
                        fail("format 'c0' needs a previous size")
                    end
                    filled = filled - 1
                    size = floor(previous)
                    if size < 0 or position + size > #text then
                        bad(2, "unpack", "data string too short")
                    end
                end
                filled = filled + 1
                found[filled] = sub(text, position + 1, position + size)
            else
                local piece = sub(text, position + 1, position + size)
                filled = filled + 1
                if option == "f" or option == "d" then
                    found[filled] = host.read_number(little and piece:reverse() or piece)
                    host.limit()
                else
                    found[filled] = integer_of(piece, SIGNED[option], little)
                end
            end
            position = position + size
            return size
        end)
        found[filled + 1] = position + 1
        return { count = filled + 1, found = found }
    end

    local function size(count, layout)
        layout = checked_text(layout, 1, "size", count)
        return walk("size", layout, function(option, each)
            if option == "s" then
                bad(1, "size", "option 's' has no fixed size")
            elseif option == "c" and each == 0 then
                bad(1, "size", "option 'c0' has no fixed size")
            end
            return each
        end)
    end

    local function guarded(f, ...)
        local ok, result = pcall(f, ...)
        if ok then
            return result
        elseif type(result) == "table" and result.fault then
            error(result.fault, 3)
        end
        error(result, 0)
    end

    function struct.pack(...)
        return (guarded(pack, select("#", ...), ...))
    end

    function struct.unpack(...)
        local result = guarded(unpack_values, select("#", ...), ...)
        return unpack(result.found, 1, result.count)
    end

    function struct.size(...)
        return (guarded(size, select("#", ...), ...))
    end

    return struct
end

return make
