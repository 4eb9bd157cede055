-- The "cmsgpack" library: MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md).

local MAX_NESTING = 16  -- of tables; what lies deeper is packed as nil
local MISSING = "Missing bytes in input."
local BAD = "Bad data format in input."

local function make(host)
    local cmsgpack = {
        _NAME = "cmsgpack",
        _VERSION = "lua-cmsgpack 0.4.0",
        _COPYRIGHT = "Copyright (C) 2012, Salvatore Sanfilippo",
        _DESCRIPTION = "MessagePack C implementation for Lua",
    }
    local char, byte, sub, floor = string.char, string.byte, string.sub, math.floor
    local type, rawget, next, error, pcall, select = type, rawget, next, error, pcall, select

    local function unsigned(value, bytes)
        local out = {}
        for at = bytes, 1, -1 do
            out[at] = char(value % 256)
            value = floor(value / 256)
        end
        return table.concat(out)
    end

    local function signed(value, bytes)
        if bytes == 8 then
            local low = value % 2 ^ 32
            return unsigned((value - low) / 2 ^ 32 % 2 ^ 32, 4) .. unsigned(low, 4)
        end
        return unsigned(value % 2 ^ (8 * bytes), bytes)
    end

    local function pack_number(value)
        if value ~= floor(value) or value >= 2 ^ 63 or value < -2 ^ 63 then
            local packed = host.pack_number(value)
            host.limit()
            return packed
        end
        if value >= 0 then
            if value < 128 then
                return char(value)
            elseif value < 2 ^ 8 then
                return "\204" .. char(value)
            elseif value < 2 ^ 16 then
                return "\205" .. unsigned(value, 2)
            elseif value < 2 ^ 32 then
                return "\206" .. unsigned(value, 4)
            end
            return "\207" .. signed(value, 8)
        elseif value >= -32 then
            return char(value + 256)
        elseif value >= -2 ^ 7 then
            return "\208" .. signed(value, 1)
        elseif value >= -2 ^ 15 then
            return "\209" .. signed(value, 2)
        elseif value >= -2 ^ 31 then
            return "\210" .. signed(value, 4)
        end
        return "\211" .. signed(value, 8)
    end

    local function header(size, few, small, two, four)
        if size < few then
            return char(small + size)
        elseif size < 2 ^ 16 then
            return char(two) .. unsigned(size, 2)
        end
        return char(four) .. unsigned(size, 4)
    end

    local function pack_string(value)
        if #value >= 32 and #value < 256 then
            return "\217" .. char(#value) .. value
        end
        return header(#value, 32, 160, 218, 219) .. value
    end

    -- How many elements a table has, and whether they are those of an array.
    local function shape(value)
        local count, highest, array = 0, 0, true
        for key in next, value do
            count = count + 1
            if type(key) ~= "number" or key <= 0 or key ~= floor(key) then
                array = false
            elseif key > highest then
                highest = key
            end
        end
        return count, array and highest == count
    end

    local function pack(out, value, level)
        local kind = type(value)
        if kind == "string" then
            out[#out + 1] = pack_string(value)
        elseif kind == "number" then
            out[#out + 1] = pack_number(value)
        elseif kind == "boolean" then
            out[#out + 1] = value and "\195" or "\194"
        elseif kind == "table" and level < MAX_NESTING then
            local count, array = shape(value)
            if array then
                out[#out + 1] = header(count, 16, 144, 220, 221)
                for at = 1, count do
                    pack(out, rawget(value, at), level + 1)
                end
            else
                out[#out + 1] = header(count, 16, 128, 222, 223)
                for key, item in next, value do
                    pack(out, key, level + 1)
                    pack(out, item, level + 1)
                end
            end
        else
            out[#out + 1] = "\192"
        end
    end

    function cmsgpack.pack(...)
        local count = select("#", ...)
        if count == 0 then
            error("bad argument #0 to 'pack' (MessagePack pack needs input.)", 2)
        end
        local out = {}
        for at = 1, count do
            pack(out, (select(at, ...)), 0)
        end
        return table.concat(out)
    end

    local function take(text, at, count)
        if at + count - 1 > #text then
            error(MISSING, 0)
        end
        return sub(text, at, at + count - 1), at + count
    end

    local function number(text, at, count)
        local digits
        digits, at = take(text, at, count)
        local value = 0
        for each = 1, count do
            value = value * 256 + byte(digits, each)
        end
        return value, at
    end

    local function whole(text, at, count)
        local first = byte(text, at)
        if count == 8 and first and first >= 128 then  -- in two halves: a double has but 53 bits
            local high, low
            high, at = number(text, at, 4)
            low, at = number(text, at, 4)
            return (high - 2 ^ 32) * 2 ^ 32 + low, at
        end
        local value
        value, at = number(text, at, count)
        if first >= 128 then
            value = value - 2 ^ (8 * count)
        end
        return value, at
    end

    local unpack_value

    local function unpack_array(text, at, count)
        local found = {}
        for each = 1, count do
            found[each], at = unpack_value(text, at)
        end
        return found, at
    end

    local function unpack_map(text, at, count)
        local found = {}
        for _ = 1, count do
            local key, value
            key, at = unpack_value(text, at)
            value, at = unpack_value(text, at)
            if key == nil or key ~= key then
                error(BAD, 0)
            end
            found[key] = value
        end
        return found, at
    end

    local function sized(text, at, bytes, read)
        local count
        count, at = number(text, at, bytes)
        return read(text, at, count)
    end

    local function real(text, at, bytes)
        local digits
        digits, at = take(text, at, bytes)
        local value = host.read_number(digits)
        host.limit()
        return value, at
    end

    function unpack_value(text, at)
        local code = byte(text, at)
        if not code then
            error(MISSING, 0)
        end
        at = at + 1
        if code < 128 then
            return code, at
        elseif code < 144 then
            return unpack_map(text, at, code - 128)
        elseif code < 160 then
            return unpack_array(text, at, code - 144)
        elseif code < 192 then
            return take(text, at, code - 160)
        elseif code >= 224 then
            return code - 256, at
        elseif code == 192 then
            return nil, at
        elseif code == 194 or code == 195 then
            return code == 195, at
        elseif code == 202 then
            return real(text, at, 4)
        elseif code == 203 then
            return real(text, at, 8)
        elseif code >= 204 and code <= 207 then
            return number(text, at, 2 ^ (code - 204))
        elseif code >= 208 and code <= 211 then
            take(text, at, 2 ^ (code - 208))
            return whole(text, at, 2 ^ (code - 208))
        elseif code >= 217 and code <= 219 then
            return sized(text, at, 2 ^ (code - 217), take)
        elseif code == 220 or code == 221 then
            return sized(text, at, code == 220 and 2 or 4, unpack_array)
        elseif code == 222 or code == 223 then
            return sized(text, at, code == 222 and 2 or 4, unpack_map)
        end
        error(BAD, 0)
    end

    -- Up to ``limit`` values (0: all) from the byte after ``offset`` on.
    local function unpack_from(text, limit, offset)
        local found, count, at = {}, 0, offset + 1
        while at <= #text and (limit == 0 or count < limit) do
            count = count + 1
            found[count], at = unpack_value(text, at)
        end
        return found, count, at - 1
    end

    local function checked(name, text, limit, offset)
        if type(text) == "number" then
            text = tostring(text)
        elseif type(text) ~= "string" then
            error("bad argument #1 to '" .. name .. "' (string expected, got " ..
                (text == nil and "no value" or type(text)) .. ")", 3)
        end
        if offset < 0 or limit < 0 then
            error("Invalid request to unpack with offset of " .. offset .. " and limit of " .. #text .. ".", 3)
        elseif offset > #text then
            error("Start offset " .. offset .. " greater than input length " .. #text .. ".", 3)
        end
        local ok, found, count, stop = pcall(unpack_from, text, limit, offset)
        if ok then
            return found, count, stop < #text and stop or -1
        elseif found == MISSING or found == BAD then
            error(found, 3)
        end
        error(found, 0)
    end

    function cmsgpack.unpack(text)
        local found, count = checked("unpack", text, 0, 0)
        return unpack(found, 1, count)
    end

    function cmsgpack.unpack_one(text, offset)
        local found, count, stop = checked("unpack_one", text, 1, tonumber(offset) or 0)
        return stop, unpack(found, 1, count)
    end

    function cmsgpack.unpack_limit(text, limit, offset)
        if tonumber(limit) == nil then
            error("bad argument #2 to 'unpack_limit' (number expected, got " ..
                (limit == nil and "no value" or type(limit)) .. ")", 2)
        end
        local found, count, stop = checked("unpack_limit", text, tonumber(limit), tonumber(offset) or 0)
        return stop, unpack(found, 1, count)
    end

    return cmsgpack
end

return make
