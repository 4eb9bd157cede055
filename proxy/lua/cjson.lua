-- The "cjson" library (Lua CJSON 2.1.0): JSON of RFC 8259, with the library's own limits and leniencies.

local function make(host)
    local type, tostring, tonumber, error, pcall, next = type, tostring, tonumber, error, pcall, next
    local byte, char, sub, find, format, gsub = string.byte, string.char, string.sub, string.find,
        string.format, string.gsub
    local floor, concat, select = math.floor, table.concat, select

    local null = host.null
    local BIG = 2147483647

    local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\127"] = "\\u007f" }
    for code = 0, 31 do
        ESCAPES[char(code)] = format("\\u%04x", code)
    end
    ESCAPES["\b"], ESCAPES["\t"], ESCAPES["\n"] = "\\b", "\\t", "\\n"
    ESCAPES["\f"], ESCAPES["\r"] = "\\f", "\\r"

    local UNESCAPED = {
        ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", t = "\t", n = "\n", f = "\f", r = "\r",
    }

    local function quoted(text)
        return '"' .. gsub(text, '[%z\1-\31"\\/\127]', ESCAPES) .. '"'
    end

    local function utf8(code)
        if code < 128 then
            return char(code)
        elseif code < 2048 then
            return char(192 + floor(code / 64), 128 + code % 64)
        elseif code < 65536 then
            return char(224 + floor(code / 4096), 128 + floor(code / 64) % 64, 128 + code % 64)
        end
        return char(240 + floor(code / 262144), 128 + floor(code / 4096) % 64,
            128 + floor(code / 64) % 64, 128 + code % 64)
    end

    -- Errors of the library's own are told from others by the table that they come in.
    local function fail(text)
        error({ fault = text }, 0)
    end

    local function guarded(level, f, ...)
        local ok, result = pcall(f, ...)
        if ok then
            return result
        elseif type(result) == "table" and result.fault then
            error(result.fault, level + 1)
        end
        error(result, 0)
    end

    local function new()
        local cjson = { _NAME = "cjson", _VERSION = "2.1.0", null = null }
        local sparse_convert, sparse_ratio, sparse_safe = false, 2, 10
        local encode_depth, decode_depth, precision = 1000, 1000, 14
        local invalid_encoded, invalid_decoded, keep_buffer = false, true, true
        local number_format = "%.14g"

        local function number(value, out)
            if value ~= value or value == 1 / 0 or value == -1 / 0 then
                if invalid_encoded == false then
                    fail("Cannot serialise number: must not be NaN or Inf")
                elseif invalid_encoded == "null" then
                    return "null"
                end
                return value ~= value and "nan" or value > 0 and "inf" or "-inf"
            end
            return format(number_format, value)
        end

        -- The length of an array, or -1 for what is an object.
        local function array_length(value)
            local highest, count = 0, 0
            for key in next, value do
                if type(key) ~= "number" or key < 1 or key ~= floor(key) then
                    return -1
                end
                if key > highest then
                    highest = key
                end
                count = count + 1
            end
            if sparse_ratio > 0 and highest > count * sparse_ratio and highest > sparse_safe then
                if not sparse_convert then
                    fail("Cannot serialise table: excessively sparse array")
                end
                return -1
            end
            return highest
        end

        local encode

        local function encode_table(out, value, depth)
            depth = depth + 1
            if depth > encode_depth then
                fail("Cannot serialise, excessive nesting (" .. depth .. ")")
            end
            local length = array_length(value)
            if length > 0 then
                out[#out + 1] = "["
                for at = 1, length do
                    if at > 1 then
                        out[#out + 1] = ","
                    end
                    encode(out, rawget(value, at), depth)
                end
                out[#out + 1] = "]"
                return
            end
            out[#out + 1] = "{"
            local first = true
            for key, item in next, value do
                if not first then
                    out[#out + 1] = ","
                end
                first = false
                local kind = type(key)
                if kind == "number" then
                    out[#out + 1] = '"' .. number(key) .. '":'
                elseif kind == "string" then
                    out[#out + 1] = quoted(key) .. ":"
                else
                    fail("Cannot serialise " .. kind .. ": table key must be a number or string")
                end
                encode(out, item, depth)
            end
            out[#out + 1] = "}"
        end

        function encode(out, value, depth)
            local kind = type(value)
            if kind == "string" then
                out[#out + 1] = quoted(value)
            elseif kind == "number" then
                out[#out + 1] = number(value)
            elseif kind == "boolean" then
                out[#out + 1] = tostring(value)
            elseif kind == "table" then
                encode_table(out, value, depth)
            elseif value == nil or value == null then
                out[#out + 1] = "null"
            else
                fail("Cannot serialise " .. kind .. ": type not supported")
            end
        end

        function cjson.encode(...)
            if select("#", ...) ~= 1 then
                error("bad argument #1 to 'encode' (expected 1 argument)", 2)
            end
            local out = {}
            guarded(2, encode, out, (...), 0)
            return concat(out)
        end

        -- Decoding: a token at a time, by the name that errors give it.

        local SINGLE = {
            ["{"] = "T_OBJ_BEGIN", ["}"] = "T_OBJ_END", ["["] = "T_ARR_BEGIN", ["]"] = "T_ARR_END",
            [","] = "T_COMMA", [":"] = "T_COLON",
        }

        local function text_token(text, at)
            local start = at + 1
            local stop = find(text, '["\\]', start)
            if stop and byte(text, stop) == 34 then
                return "T_STRING", at, stop + 1, sub(text, start, stop - 1)
            end
            local out = {}
            while true do
                stop = find(text, '["\\]', start)
                if not stop then
                    return "unexpected end of string", #text + 1
                end
                out[#out + 1] = sub(text, start, stop - 1)
                if byte(text, stop) == 34 then
                    return "T_STRING", at, stop + 1, concat(out)
                end
                local code = sub(text, stop + 1, stop + 1)
                if code == "u" then
                    local digits = text:match("^%x%x%x%x", stop + 2)
                    local value = digits and tonumber(digits, 16)
                    start = stop + 6
                    if value and value >= 0xD800 and value < 0xDC00 then
                        local low = text:match("^\\u(%x%x%x%x)", start)
                        low = low and tonumber(low, 16)
                        start = start + 6
                        value = low and low >= 0xDC00 and low < 0xE000
                            and (value - 0xD800) * 1024 + low - 0xDC00 + 0x10000
                    elseif value and value >= 0xDC00 and value < 0xE000 then
                        value = nil
                    end
                    if not value then
                        return "invalid unicode escape code", stop
                    end
                    out[#out + 1] = utf8(value)
                else
                    local plain = UNESCAPED[code]
                    if not plain then
                        return "invalid escape code", stop
                    end
                    out[#out + 1] = plain
                    start = stop + 2
                end
            end
        end

        local function number_token(text, at)
            local rest = sub(text, at, at + 511)
            local sign, low = rest:match("^([+-]?)(.*)$")
            low = low:lower()
            local odd = low:match("^0x%x+") or low:match("^infinity") or low:match("^inf") or low:match("^nan")
            if odd then
                if not invalid_decoded then
                    return "invalid number", at
                end
                local value = odd == "nan" and 0 / 0 or odd:sub(1, 3) == "inf" and 1 / 0 or tonumber(odd)
                if odd == "nan" then
                    -- The processor's own NaN is the negative one.
                    value = sign == "-" and 0 / 0 or -(0 / 0)
                elseif sign == "-" then
                    value = -value
                end
                return "T_NUMBER", at, at + #sign + #odd, value
            end
            local body = low:match("^%d+%.?%d*") or low:match("^%.%d+")
            if not body or (not invalid_decoded and (sign == "+" or body:match("^0%d"))) then
                return "invalid number", at
            end
            local exponent = low:match("^e[+-]?%d+", #body + 1) or ""
            return "T_NUMBER", at, at + #sign + #body + #exponent, tonumber(sign:gsub("+", "") .. body .. exponent)
        end

        local WORDS = { { "true", "T_BOOLEAN", true }, { "false", "T_BOOLEAN", false }, { "null", "T_NULL", null } }

        -- A token's name or what is wrong with it, where it begins, where the next one may, and its value.
        local function token(text, at)
            at = find(text, "[^ \t\r\n]", at)
            if not at then
                return "T_END", #text + 1
            end
            local first = sub(text, at, at)
            if first == "\0" then
                return "T_END", at
            end
            local name = SINGLE[first]
            if name then
                return name, at, at + 1
            elseif first == '"' then
                return text_token(text, at)
            elseif find(first, "[-+0-9]") then
                return number_token(text, at)
            end
            for _, word in next, WORDS do
                if sub(text, at, at + #word[1] - 1) == word[1] then
                    return word[2], at, at + #word[1], word[3]
                end
            end
            if invalid_decoded and find(first, "[iInN]") then
                local found, begin, after, value = number_token(text, at)
                if after then
                    return found, begin, after, value
                end
            end
            return "invalid token", at
        end

        local function expected(what, found, at)
            fail("Expected " .. what .. " but found " .. found .. " at character " .. at)
        end

        local value_of

        local function nest(depth, at)
            if depth > decode_depth then
                fail("Found too many nested data structures (" .. depth .. ") at character " .. at)
            end
        end

        local function object(text, at, depth, begin)
            nest(depth, begin)
            local found = {}
            local name, from, after, key = token(text, at)
            if name == "T_OBJ_END" then
                return found, after
            end
            while true do
                if name ~= "T_STRING" then
                    expected("object key string", name, from)
                end
                name, from, after = token(text, after)
                if name ~= "T_COLON" then
                    expected("colon", name, from)
                end
                found[key], after = value_of(text, depth, token(text, after))
                name, from, after = token(text, after)
                if name == "T_OBJ_END" then
                    return found, after
                elseif name ~= "T_COMMA" then
                    expected("comma or object end", name, from)
                end
                name, from, after, key = token(text, after)
            end
        end

        local function array(text, at, depth, begin)
            nest(depth, begin)
            local found, count = {}, 0
            local name, from, after, item = token(text, at)
            if name == "T_ARR_END" then
                return found, after
            end
            while true do
                count = count + 1
                found[count], after = value_of(text, depth, name, from, after, item)
                name, from, after = token(text, after)
                if name == "T_ARR_END" then
                    return found, after
                elseif name ~= "T_COMMA" then
                    expected("comma or array end", name, from)
                end
                name, from, after, item = token(text, after)
            end
        end

        local PLAIN = { T_STRING = true, T_NUMBER = true, T_BOOLEAN = true, T_NULL = true }

        function value_of(text, depth, name, from, after, value)
            if PLAIN[name] then
                return value, after
            elseif name == "T_OBJ_BEGIN" then
                return object(text, after, depth + 1, from)
            elseif name == "T_ARR_BEGIN" then
                return array(text, after, depth + 1, from)
            end
            expected("value", name, from)
        end

        local function decode(text)
            if #text >= 2 and (byte(text, 1) == 0 or byte(text, 2) == 0) then
                fail("JSON parser does not support UTF-16 or UTF-32")
            end
            local found, after = value_of(text, 0, token(text, 1))
            local name, from = token(text, after)
            if name ~= "T_END" then
                expected("the end", name, from)
            end
            return found
        end

        function cjson.decode(...)
            if select("#", ...) ~= 1 then
                error("bad argument #1 to 'decode' (expected 1 argument)", 2)
            end
            local text = (...)
            if type(text) == "number" then
                text = tostring(text)
            elseif type(text) ~= "string" then
                error("bad argument #1 to 'decode' (string expected, got " .. type(text) .. ")", 2)
            end
            return guarded(2, decode, text)
        end

        -- Settings: without an argument they are only told.

        local function count_of(count, most)
            if count > most then
                error("bad argument #" .. most + 1 .. " to 'setting' (found too many arguments)", 3)
            end
        end

        local function integer(value, current, at, name, least, most)
            if value == nil then
                return current
            end
            local n = tonumber(value)
            if not n then
                error("bad argument #" .. at .. " to '" .. name .. "' (number expected, got " .. type(value) ..
                    ")", 3)
            end
            if floor(n) < least or n > most then
                error("bad argument #" .. at .. " to '" .. name .. "' (expected integer between " .. least ..
                    " and " .. most .. ")", 3)
            end
            return floor(n)
        end

        local function option(value, current, name, extra)
            if value == nil or type(value) == "boolean" then
                return value == nil and current or value
            elseif value == "on" or value == "off" then
                return value == "on"
            elseif extra and value == extra then
                return value
            elseif type(value) == "string" then
                error("bad argument #1 to '" .. name .. "' (invalid option '" .. value .. "')", 3)
            end
            error("bad argument #1 to '" .. name .. "' (string expected, got " .. type(value) .. ")", 3)
        end

        function cjson.encode_max_depth(...)
            count_of(select("#", ...), 1)
            encode_depth = integer((...), encode_depth, 1, "encode_max_depth", 1, BIG)
            return encode_depth
        end

        function cjson.decode_max_depth(...)
            count_of(select("#", ...), 1)
            decode_depth = integer((...), decode_depth, 1, "decode_max_depth", 1, BIG)
            return decode_depth
        end

        function cjson.encode_number_precision(...)
            count_of(select("#", ...), 1)
            precision = integer((...), precision, 1, "encode_number_precision", 1, 14)
            number_format = "%." .. precision .. "g"
            return precision
        end

        function cjson.encode_keep_buffer(...)
            count_of(select("#", ...), 1)
            keep_buffer = option((...), keep_buffer, "encode_keep_buffer")
            return keep_buffer
        end

        function cjson.encode_invalid_numbers(...)
            count_of(select("#", ...), 1)
            invalid_encoded = option((...), invalid_encoded, "encode_invalid_numbers", "null")
            return invalid_encoded
        end

        function cjson.decode_invalid_numbers(...)
            count_of(select("#", ...), 1)
            invalid_decoded = option((...), invalid_decoded, "decode_invalid_numbers")
            return invalid_decoded
        end

        function cjson.encode_sparse_array(...)
            count_of(select("#", ...), 3)
            local convert, ratio, safe = ...
            sparse_convert = option(convert, sparse_convert, "encode_sparse_array")
            sparse_ratio = integer(ratio, sparse_ratio, 2, "encode_sparse_array", 0, BIG)
            sparse_safe = integer(safe, sparse_safe, 3, "encode_sparse_array", 0, BIG)
            return sparse_convert, sparse_ratio, sparse_safe
        end

        cjson.new = new
        return cjson
    end

    return new()
end

return make
