"""Every error text that a client can see, in one place.

The first word is the error's code, as Redis has it.  Where Redis has a text, it is Redis' own, since
clients match on it; ours are one line that says what to do.
"""

from __future__ import annotations

from typing import Final


class CommandError(Exception):
    """A command's error reply.  ``text`` is one line, its first word the code."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text: str = text
        self.wire: bytes = b"-" + one_line(text.encode("utf-8", "replace")) + b"\r\n"

    @property
    def code(self) -> str:
        return self.text.split(" ", 1)[0]


class ProtocolError(Exception):
    """The client's bytes are no request; answered by one error, then the connection is closed."""


class NeedKeys(Exception):
    """A handler needs more of some keys than its keyspace has: load them, then run it again."""

    def __init__(self, db: int, names: list[bytes], want: int) -> None:
        super().__init__()
        self.db: int = db
        self.names: list[bytes] = names
        self.want: int = want


def one_line(text: bytes) -> bytes:
    """Error replies end at the first line break, so none may stand inside."""
    if b"\r" in text or b"\n" in text:
        return text.replace(b"\r", b" ").replace(b"\n", b" ")
    return text


def quote(arg: bytes, limit: int = 128) -> str:
    """An argument for use inside an error text: cut, and with what is not printable escaped."""
    return arg[:limit].decode("utf-8", "backslashreplace")


# Redis' own texts.
WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
NOT_AN_INT32: Final = "ERR value is out of range, value must between -2147483648 and 2147483647"
NOT_A_FLOAT: Final = "ERR value is not a valid float"
SYNTAX: Final = "ERR syntax error"
INVALID_ARGUMENTS: Final = "ERR Invalid arguments specified for command"
SLOWLOG_COUNT: Final = "ERR count should be greater than or equal to -1"
DEBUG_NOT_ALLOWED: Final = (
    'ERR DEBUG command not allowed: set debug_commands in [server] to "local", for connections from this '
    'machine, or to "yes"'
)
NO_SNAPSHOTS: Final = (
    "ERR there is nothing to save: writes to cold backends are stored before they are acknowledged, and "
    "what is routed to memory is not kept; a snapshot file of a memory backend would keep it"
)
NO_APPEND_FILE: Final = (
    "ERR there is no append-only file: writes to cold backends are stored before they are acknowledged"
)
SAVING: Final = "ERR Background save already in progress"
NO_CONFIG_FILE: Final = "ERR The server is running without a config file"
NO_SUCH_KEY: Final = "ERR no such key"
OVERFLOW: Final = "ERR increment or decrement would overflow"
DECREMENT_OVERFLOW: Final = "ERR decrement would overflow"
NAN_OR_INFINITY: Final = "ERR increment would produce NaN or Infinity"
OFFSET_OUT_OF_RANGE: Final = "ERR offset is out of range"
NOT_POSITIVE: Final = "ERR value is out of range, must be positive"
NOT_A_COUNT: Final = (
    "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807"
)
NUMKEYS_NOT_POSITIVE: Final = "ERR numkeys should be greater than 0"
NUMKEYS_TOO_MANY: Final = "ERR Number of keys can't be greater than number of args"
LIMIT_NEGATIVE: Final = "ERR LIMIT can't be negative"
COUNT_OUT_OF_RANGE: Final = "ERR value is out of range"
HASH_NOT_AN_INTEGER: Final = "ERR hash value is not an integer"
HASH_NOT_A_FLOAT: Final = "ERR hash value is not a float"
NAN_OR_INFINITE_VALUE: Final = "ERR value is NaN or Infinity"
FIELDS_MISSING: Final = "ERR Mandatory argument FIELDS is missing or not at the right position"
FIELDS_NOT_POSITIVE: Final = "ERR Number of fields must be a positive integer"
FIELDS_DIFFER: Final = "ERR The `numfields` parameter must match the number of arguments"
NUMFIELDS_NOT_POSITIVE: Final = "ERR Parameter `numFields` should be greater than 0"
NUMFIELDS_INVALID: Final = "ERR invalid number of fields"
EXPIRE_NEGATIVE: Final = "ERR invalid expire time, must be >= 0"
EXPIRE_TIME_MISSING: Final = "ERR missing expire time"
FNX_AND_FXX: Final = "ERR Only one of FXX or FNX arguments can be specified"
ONE_EXPIRY_OR_KEEPTTL: Final = "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified"
STRING_TOO_LONG: Final = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
SAME_OBJECT: Final = "ERR source and destination objects are the same"
DB_OUT_OF_RANGE: Final = "ERR DB index is out of range"
INVALID_FIRST_DB: Final = "ERR invalid first DB index"
INVALID_SECOND_DB: Final = "ERR invalid second DB index"
INVALID_CURSOR: Final = "ERR invalid cursor"
OUT_OF_MEMORY: Final = "OOM command not allowed when used memory > 'maxmemory'."
NO_AUTH: Final = "NOAUTH Authentication required."
WRONG_PASSWORD: Final = "WRONGPASS invalid username-password pair or user is disabled."
NO_PASSWORD_SET: Final = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
HELLO_NO_AUTH: Final = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "
    "AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol "
    "version at the same time"
)
NO_PROTO: Final = "NOPROTO unsupported protocol version"
PROTO_NOT_INTEGER: Final = "ERR Protocol version is not an integer or out of range"
MAX_CLIENTS: Final = "ERR max number of clients reached"
NO_SUCH_CLIENT: Final = "ERR No such client"
INVALID_CLIENT_NAME: Final = "ERR Client names cannot contain spaces, newlines or special characters."
INVALID_CLIENT_ID: Final = "ERR Invalid client ID"
CLIENT_ID_NOT_POSITIVE: Final = "ERR client-id should be greater than 0"
MAXAGE_NOT_AN_INTEGER: Final = "ERR maxage is not an integer or out of range"
MAXAGE_NOT_POSITIVE: Final = "ERR maxage should be greater than 0"
TIMEOUT_NOT_AN_INTEGER: Final = "ERR timeout is not an integer or out of range"
PAUSE_MODE: Final = "ERR CLIENT PAUSE mode must be WRITE or ALL"
GETKEYS_UNKNOWN: Final = "ERR Invalid command specified"
GETKEYS_NO_KEYS: Final = "ERR The command has no key arguments"
GETKEYS_ARITY: Final = "ERR Invalid number of arguments specified for command"
NESTED_MULTI: Final = "ERR MULTI calls can not be nested"
EXEC_WITHOUT_MULTI: Final = "ERR EXEC without MULTI"
DISCARD_WITHOUT_MULTI: Final = "ERR DISCARD without MULTI"
WATCH_IN_MULTI: Final = "ERR WATCH inside MULTI is not allowed"
NOT_IN_MULTI: Final = "ERR Command not allowed inside a transaction"
EXEC_ABORTED: Final = "EXECABORT Transaction discarded because of previous errors."
UNBLOCKED: Final = "UNBLOCKED client unblocked via CLIENT UNBLOCK"
UNBLOCK_REASON: Final = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"
TIMEOUT_NOT_FLOAT: Final = "ERR timeout is not a float or out of range"
TIMEOUT_NEGATIVE: Final = "ERR timeout is negative"
WAITAOF_NO_FILE: Final = "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."
INTERNAL: Final = "ERR internal error"
INVALID_EXPIRE_OPTIONS: Final = "ERR NX and XX, GT or LT options at the same time are not compatible"
INVALID_GT_LT: Final = "ERR GT and LT options at the same time are not compatible"
NO_LFU: Final = (
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when "
    "switching between policies at runtime LRU and LFU data will take some time to adjust."
)
NEGATIVE_KEYS: Final = "ERR Number of keys can't be negative"
TOO_MANY_KEYS: Final = "ERR Number of keys can't be greater than number of args"
NO_SCRIPT: Final = "NOSCRIPT No matching script. Please use EVAL."
NO_RUNNING_SCRIPT: Final = "NOTBUSY No scripts in execution right now."
SCRIPT_FLUSH_MODE: Final = "ERR SCRIPT FLUSH only support SYNC|ASYNC option"
SCRIPT_DEBUG_MODE: Final = "ERR Use SCRIPT DEBUG YES/SYNC/NO"
SCRIPT_UNKNOWN_COMMAND: Final = "ERR Unknown Redis command called from script"
SCRIPT_ARITY: Final = "ERR Wrong number of args calling Redis command from script"
SCRIPT_NOT_ALLOWED: Final = "ERR This Redis command is not allowed from script"
SCRIPT_READ_ONLY: Final = "ERR Write commands are not allowed from read-only scripts."
SCRIPT_MAY_WRITE: Final = "ERR Can not execute a script with write flag using *_ro command."
SCRIPT_BLOCKS: Final = "ERR %s command is not allowed with BLOCK option from scripts"
SHEBANG: Final = "ERR Invalid script shebang"
LCS_BOTH: Final = "ERR If you want both the length and indexes, please just use IDX."
LCS_TOO_LARGE: Final = "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"
COUNT_NOT_POSITIVE: Final = "ERR count should be greater than 0"
ZADD_NX_XX: Final = "ERR XX and NX options at the same time are not compatible"
ZADD_GT_LT_NX: Final = "ERR GT, LT, and/or NX options at the same time are not compatible"
ZADD_INCR_ONE: Final = "ERR INCR option supports a single increment-element pair"
NAN_SCORE: Final = "ERR resulting score is not a number (NaN)"
MIN_MAX_NOT_FLOAT: Final = "ERR min or max is not a float"
MIN_MAX_NOT_NAME: Final = "ERR min or max not valid string range item"
ZRANGE_LIMIT: Final = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
ZRANGE_WITHSCORES: Final = "ERR syntax error, WITHSCORES not supported in combination with BYLEX"
WEIGHT_NOT_FLOAT: Final = "ERR weight value is not a float"
GEO_UNIT: Final = "ERR unsupported unit provided. please use M, KM, FT, MI"
GEO_MEMBER: Final = "ERR could not decode requested zset member"
GEO_RADIUS: Final = "ERR need numeric radius"
GEO_NEGATIVE_RADIUS: Final = "ERR radius cannot be negative"
GEO_WIDTH: Final = "ERR need numeric width"
GEO_HEIGHT: Final = "ERR need numeric height"
GEO_NEGATIVE_BOX: Final = "ERR height or width cannot be negative"
GEO_COUNT: Final = "ERR COUNT must be > 0"
GEO_ANY: Final = "ERR the ANY argument requires COUNT argument"
NOT_SORTABLE: Final = "ERR One or more scores can't be converted into double"
LCS_TYPE: Final = "ERR The specified keys must contain string values"
BIT_OFFSET: Final = "ERR bit offset is not an integer or out of range"
BIT_VALUE: Final = "ERR bit is not an integer or out of range"
BITPOS_BIT: Final = "ERR The bit argument must be 1 or 0."
BITOP_NOT: Final = "ERR BITOP NOT must be called with a single source key."
BITFIELD_TYPE: Final = (
    "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
)
BITFIELD_OVERFLOW: Final = "ERR Invalid OVERFLOW type specified"
BITFIELD_RO: Final = "ERR BITFIELD_RO only supports the GET subcommand"
BUSY_KEY: Final = "BUSYKEY Target key name already exists."
DUMP_FOOTER: Final = "ERR DUMP payload version or checksum are wrong"
DUMP_FORMAT: Final = "ERR Bad data format"
INVALID_TTL: Final = "ERR Invalid TTL value, must be >= 0"
INVALID_IDLE_TIME: Final = "ERR Invalid IDLETIME value, must be >= 0"
INVALID_FREQ: Final = "ERR Invalid FREQ value, must be >= 0 and <= 255"
HLL_INVALID: Final = "WRONGTYPE Key is not a valid HyperLogLog string value."
HLL_CORRUPT: Final = "INVALIDOBJ Corrupted HLL object detected"
HLL_NOT_SPARSE: Final = "ERR HLL encoding is not sparse"
NO_SPECIFIED_KEY: Final = "ERR The specified key does not exist"
INDEX_OUT_OF_RANGE: Final = "ERR index out of range"
COUNT_NEGATIVE: Final = "ERR COUNT can't be negative"
MAXLEN_NEGATIVE: Final = "ERR MAXLEN can't be negative"
RANK_ZERO: Final = (
    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to "
    "start from the end of the list"
)
STREAM_ID: Final = "ERR Invalid stream ID specified as stream command argument"
STREAM_ID_ZERO: Final = "ERR The ID specified in XADD must be greater than 0-0"
STREAM_ID_SMALL: Final = "ERR The ID specified in XADD is equal or smaller than the target stream top item"
STREAM_IDS_USED: Final = "ERR The stream has exhausted the last possible ID, unable to add more items"
STREAM_ENTRY_TOO_LARGE: Final = "ERR Elements are too large to be stored"
STREAM_START: Final = "ERR invalid start ID for the interval"
STREAM_END: Final = "ERR invalid end ID for the interval"
TRIM_TWICE: Final = "ERR syntax error, MAXLEN and MINID options at the same time are not compatible"
TRIM_MAXLEN: Final = "ERR The MAXLEN argument must be >= 0."
TRIM_LIMIT: Final = "ERR The LIMIT argument must be >= 0."
TRIM_LIMIT_ALONE: Final = "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy"
TRIM_LIMIT_EXACT: Final = "ERR syntax error, LIMIT cannot be used without the special ~ option"
TRIM_BY_NOTHING: Final = "ERR syntax error, XTRIM must be called with a trimming strategy"
XSETID_SMALL: Final = "ERR The ID specified in XSETID is smaller than the target stream top item"
XSETID_ADDED: Final = "ERR entries_added must be positive"
XSETID_ADDED_SMALL: Final = (
    "ERR The entries_added specified in XSETID is smaller than the target stream length"
)
XSETID_DELETED: Final = "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id"
XREAD_UNBALANCED: Final = (
    "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
)
XREAD_GROUP: Final = "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead."
XREAD_NOACK: Final = "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead."
XREAD_NEW: Final = (
    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option."
)
XREADGROUP_NO_GROUP: Final = "ERR Missing GROUP option for XREADGROUP"
XREADGROUP_LAST: Final = (
    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this "
    "consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return "
    "an empty result set."
)
XGROUP_NO_KEY: Final = (
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the "
    "MKSTREAM option to create an empty stream automatically."
)
XGROUP_BUSY: Final = "BUSYGROUP Consumer Group name already exists"
ENTRIES_READ: Final = "ERR value for ENTRIESREAD must be positive or -1"
XAUTOCLAIM_COUNT: Final = "ERR COUNT must be > 0"


def no_group(key: bytes, group: bytes) -> CommandError:
    return CommandError(
        f"NOGROUP No such key '{quote(key, len(key))}' or consumer group '{quote(group, len(group))}'"
    )


def no_group_to_read(key: bytes, group: bytes) -> CommandError:
    return CommandError(f"{no_group(key, group).text} in XREADGROUP with GROUP option")


def no_group_of_key(group: bytes, key: bytes) -> CommandError:
    return CommandError(
        f"NOGROUP No such consumer group '{quote(group, len(group))}' for key name '{quote(key, len(key))}'"
    )


def invalid_claim(argument: str, name: str) -> str:
    return f"ERR Invalid {argument} argument for {name}"


def unknown_claim_option(option: bytes) -> CommandError:
    return CommandError(f"ERR Unrecognized XCLAIM option '{quote(option, len(option))}'")


def wrong_arity(name: str) -> CommandError:
    return CommandError(f"ERR wrong number of arguments for '{name}' command")


def unknown_command(argv: list[bytes]) -> CommandError:
    """As Redis words it: the name and the beginning of the arguments, 128 bytes at most each."""
    shown = ""
    for arg in argv[1:]:
        if len(shown) >= 128:
            break
        shown += f"'{quote(arg, 128 - len(shown))}' "
    return CommandError(f"ERR unknown command '{quote(argv[0])}', with args beginning with: {shown}")


def unknown_subcommand(name: bytes, container: str) -> CommandError:
    return CommandError(f"ERR unknown subcommand '{quote(name)}'. Try {container.upper()} HELP.")


def subcommand_syntax(name: bytes, container: str) -> CommandError:
    return CommandError(
        f"ERR unknown subcommand or wrong number of arguments for '{quote(name)}'. "
        f"Try {container.upper()} HELP."
    )


def hello_option(option: bytes) -> CommandError:
    return CommandError(f"ERR Syntax error in HELLO option '{quote(option)}'")


def unknown_client_type(name: bytes) -> CommandError:
    return CommandError(f"ERR Unknown client type '{quote(name)}'")


def no_such_user(name: bytes) -> CommandError:
    return CommandError(f"ERR No such user '{quote(name)}'")


def unknown_client_info(attribute: bytes) -> CommandError:
    return CommandError(f"ERR Unrecognized option '{quote(attribute)}'")


def invalid_client_info(attribute: bytes) -> CommandError:
    return CommandError(f"ERR {quote(attribute)} cannot contain spaces, newlines or special characters.")


def unknown_parameter(name: bytes) -> CommandError:
    return CommandError(f"ERR Unknown option or number of arguments for CONFIG SET - '{quote(name)}'")


def config_set_failed(name: bytes, reason: str) -> CommandError:
    return CommandError(f"ERR CONFIG SET failed (possibly related to argument '{quote(name)}') - {reason}")


def unknown_argument(argument: bytes) -> CommandError:
    return CommandError(f"ERR unknown argument: {quote(argument)}")


def no_input_key(name: str) -> CommandError:
    return CommandError(f"ERR at least 1 input key is needed for '{name}' command")


def invalid_place(longitude: float, latitude: float) -> CommandError:
    return CommandError(f"ERR invalid longitude,latitude pair {longitude:.6f},{latitude:.6f}")


def geo_store(name: str) -> CommandError:
    return CommandError(f"ERR {name} is not compatible with WITHDIST, WITHHASH and WITHCOORD options")


def geo_from(name: bytes) -> CommandError:
    return CommandError(f"ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {quote(name)}")


def geo_by(name: bytes) -> CommandError:
    return CommandError(f"ERR exactly one of BYRADIUS and BYBOX can be specified for {quote(name)}")


def unsupported_option(option: bytes) -> CommandError:
    return CommandError(f"ERR Unsupported option {quote(option)}")


def unknown_pfdebug(action: bytes) -> CommandError:
    return CommandError(f"ERR Unknown PFDEBUG subcommand '{quote(action)}'")


def invalid_expire(name: str) -> CommandError:
    return CommandError(f"ERR invalid expire time in '{name}' command")


# Ours: one line each that says what to do.
HLL_SELF_TEST: Final = "TESTFAILED HyperLogLog does not estimate as it should: this build can't be trusted"
NO_MAINT_NOTIFICATIONS: Final = (
    "ERR this server has no maintenance to notify of: connect with CLIENT MAINT_NOTIFICATIONS OFF"
)

TRACKING_ONE_REDIRECT: Final = "ERR A client can only redirect to a single other client"
TRACKING_NO_SUCH_CLIENT: Final = "ERR The client ID you want redirect to does not exist"
TRACKING_PREFIX_WITHOUT_BCAST: Final = "ERR PREFIX option requires BCAST mode to be enabled"
TRACKING_SWITCHES_BCAST: Final = (
    "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling "
    "it with a different mode."
)
TRACKING_OPT_WITH_BCAST: Final = "ERR OPTIN and OPTOUT are not compatible with BCAST"
TRACKING_OPTS_BOTH: Final = "ERR You can't specify both OPTIN mode and OPTOUT mode"
TRACKING_SWITCHES_OPT: Final = (
    "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling "
    "it with a different mode."
)
CACHING_WITHOUT_TRACKING: Final = (
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode "
    "enabled"
)
CACHING_YES_WITHOUT_OPTIN: Final = (
    "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
)
CACHING_NO_WITHOUT_OPTOUT: Final = (
    "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
)
NOTHING_TO_TRACK: Final = (
    "ERR all routes lead to Redis, whose changes are not told of here: connect to it directly for CLIENT "
    "TRACKING"
)


def prefix_overlaps(prefix: bytes, other: bytes, which: str) -> CommandError:
    return CommandError(
        f"ERR Prefix '{quote(prefix)}' overlaps with {which} prefix '{quote(other)}'. "
        "Prefixes for a single client must not overlap."
    )


def cross_tier(name: str, first: bytes, second: bytes) -> CommandError:
    return CommandError(
        f"CROSSTIER '{name}' needs its keys on one backend, but prefix '{quote(first)}' and prefix "
        f"'{quote(second)}' have different ones: use keys of one prefix, or one command for each"
    )


def partly_done(error: CommandError) -> CommandError:
    return CommandError(f"{error.text}; this command's other keys were changed")


def no_functions(name: str) -> CommandError:
    return CommandError(
        f"ERR '{name}' is served on redis routes only, where functions live: here, send the script with EVAL"
    )


def partly_loaded(error: CommandError) -> CommandError:
    return CommandError(f"{error.text}; another Redis backend has done it")


def unnamed_key(key: bytes) -> CommandError:
    return CommandError(
        f"CROSSTIER the script uses '{quote(key)}', which is routed to Redis, and does not name it: name it "
        f"among the script's keys, so that it runs there"
    )


def channel_elsewhere(channel: bytes) -> CommandError:
    return CommandError(
        f"ERR channel '{quote(channel)}' is routed to Redis: publish to it outside of scripts, or in one "
        f"whose keys are there"
    )


def not_served(name: str, tier: str) -> CommandError:
    if name.startswith("fcall"):
        return no_functions(name)
    return CommandError(
        f"ERR '{name}' is not served on this tier ({tier}): use a key whose prefix is routed to Redis"
    )


def not_swapped(backend: str) -> CommandError:
    return CommandError(
        f"ERR 'swapdb' is served where all routes are in memory, and backend '{backend}' is not: move single "
        f"keys by COPY with DB"
    )


def not_served_yet(name: str) -> CommandError:
    return CommandError(f"ERR '{name}' is not served by this version of redtier")


def not_shared(name: str) -> CommandError:
    return CommandError(
        f"ERR '{name}' is not sent over the connections to Redis that all clients share: connect to that "
        f"Redis directly for it"
    )


def foreign_key(key: bytes, backend: str) -> CommandError:
    """For a key that a command finds out about only while it runs."""
    return CommandError(
        f"CROSSTIER this command needs its keys on one backend, and '{quote(key)}' is not routed to "
        f"'{backend}': use keys of one backend"
    )


def script_too_long(timeout: str) -> CommandError:
    return CommandError(
        f"ERR the script was stopped after {timeout} and its changes were undone: do less in it, or raise "
        f"'timeout' in [scripts]"
    )


def script_too_large(limit: str) -> CommandError:
    return CommandError(
        f"ERR the script was stopped at {limit} of memory and its changes were undone: hold less in it, or "
        f"raise 'max_memory' in [scripts]"
    )


def not_in_scripts(name: str) -> CommandError:
    return CommandError(
        f"ERR '{name}' is not served in this script: it would have to wait for other backends than memory"
    )


def shebang_engine(engine: bytes) -> CommandError:
    return CommandError(f"ERR Unexpected engine in script shebang: {quote(engine)}")


def shebang_option(option: bytes) -> CommandError:
    return CommandError(f"ERR Unknown lua shebang option: {quote(option)}")


def shebang_flag(flag: bytes) -> CommandError:
    return CommandError(f"ERR Unexpected flag in script shebang: {quote(flag)}")


def no_debugger() -> CommandError:
    return CommandError("ERR scripts can't be debugged here: use redis-cli --ldb with a Redis of your own")


def integrity(key: bytes, reason: str) -> CommandError:
    return CommandError(
        f"INTEGRITY the stored value of '{quote(key)}' is damaged ({reason}): a copy is kept in "
        f"quarantine; overwrite or delete the key, or restore it from a backup"
    )


def integrity_there(key: bytes, reason: str, backend: str) -> CommandError:
    return CommandError(
        f"INTEGRITY the value of '{quote(key)}' on backend '{backend}' is damaged ({reason}): overwrite or "
        f"delete the key, or restore it from a backup"
    )


def not_offloaded(key: bytes) -> CommandError:
    return CommandError(
        f"ERR the value of '{quote(key)}' is not offloaded, so there is no URL of it: read it with GET, or "
        f"give its route an offload whose 'over' is less than its size, and write it again"
    )


URL_LIFE_OUT_OF_RANGE: Final = "ERR EX must be from 1 to 604800 seconds, which are seven days"


def no_quarantine(backend: str, known: list[str]) -> CommandError:
    those = ", ".join(known) or "there is no such backend"
    return CommandError(f"ERR '{quote(backend.encode())}' keeps no quarantine; those that do: {those}")


def not_quarantined(id: bytes) -> CommandError:
    return CommandError(f"ERR '{quote(id)}' is no id of a record as TIER QUARANTINE LIST shows them")


def no_training(prefix: bytes) -> CommandError:
    return CommandError(
        f"ERR no route of a store has the prefix '{quote(prefix)}' and 'dictionary = \"auto\"': TIER ROUTES "
        f"shows the prefixes"
    )


def training(prefix: bytes) -> CommandError:
    return CommandError(
        f"ERR a dictionary is being trained for '{quote(prefix)}': TIER DICT shows when it is there"
    )


def not_trained(prefix: bytes, samples: int, least: int) -> CommandError:
    if samples < least:
        return CommandError(
            f"ERR there are {samples} values to train a dictionary for '{quote(prefix)}' from, and it takes "
            f"{least}: write some first"
        )
    return CommandError(
        f"ERR no dictionary for '{quote(prefix)}' makes its values smaller than they are: {samples} of them "
        f"were tried"
    )


def inside_sealed(name: str, prefix: bytes) -> CommandError:
    return CommandError(
        f"ERR '{name}' works on the inside of a string, and strings of prefix '{quote(prefix)}' are sealed: "
        f"read and write whole values, or use a prefix without 'compression' and 'integrity'"
    )


def sorted_by_sealed(name: str, prefix: bytes) -> CommandError:
    return CommandError(
        f"ERR '{name}' would read strings of prefix '{quote(prefix)}', which are sealed: leave out BY and "
        f"GET of them and read them with MGET, or keep them in hashes"
    )


def sealed_and_not(name: str, first: bytes, second: bytes) -> CommandError:
    return CommandError(
        f"ERR '{name}' would take a value from prefix '{quote(first)}' to prefix '{quote(second)}', of which "
        f"only one is sealed, and can't be part of a transaction: send it outside of MULTI"
    )


def backend_down(backend: str, reason: str) -> CommandError:
    return CommandError(f"BACKENDDOWN backend '{backend}' can't serve now, try again later: {reason}")


def not_the_writer(backend: str, reason: str) -> CommandError:
    """Redis' own code for a server that is not written to: clients look for the one that is."""
    return CommandError(f"READONLY backend '{backend}' is written to elsewhere: {reason}")


def maybe_applied(backend: str, reason: str) -> CommandError:
    return CommandError(
        f"BACKENDDOWN backend '{backend}' was lost during the write ({reason}): it may have been "
        f"applied; read the key before you repeat it"
    )


def upstream(backend: str, reason: str) -> CommandError:
    return CommandError(f"UPSTREAM backend '{backend}': {reason}")


def unsettled(backend: str) -> CommandError:
    return upstream(
        backend,
        "its servers do not agree which of them has this key; the command was not executed, try again later",
    )


def overloaded(backend: str) -> CommandError:
    return upstream(
        backend,
        "as much waits for it as may (in_flight_max, in_flight_bytes_max); the command was not executed, "
        "try again later",
    )


def too_large(size: int, limit: int, option: str) -> CommandError:
    return CommandError(
        f"TOOLARGE {size} bytes are over the limit of {limit}: send less, or raise '{option}'"
    )


def too_large_sealed(size: int, limit: int) -> CommandError:
    return CommandError(
        f"TOOLARGE a value of {size} bytes is over the limit of {limit} once it is sealed: send less"
    )


def reply_too_large(size: int, limit: int, option: str) -> CommandError:
    return CommandError(
        f"TOOLARGE a reply of {size} bytes is over the limit of {limit}: ask for less, or raise '{option}'"
    )


def too_many(count: int, limit: int) -> CommandError:
    return CommandError(
        f"TOOLARGE {count} elements are over the limit of {limit} for one reply: ask for fewer"
    )


def key_too_long(backend: str, size: int, limit: int) -> CommandError:
    return CommandError(
        f"TOOLARGE a key of {size} bytes is longer than backend '{backend}' can hold ({limit}): "
        f"use a shorter key"
    )


def key_refused(reason: str) -> CommandError:
    return CommandError(f"TOOLARGE {reason}: use a shorter key")


def conflict(key: bytes) -> CommandError:
    return CommandError(
        f"CONFLICT '{quote(key)}' was changed by others each time this command was tried: try again"
    )


def not_saved(reason: str) -> CommandError:
    return CommandError(f"ERR {reason}")


def not_flushable(backend: str) -> CommandError:
    return CommandError(
        f"ERR backend '{backend}' is not flushable: set 'flushable = true' in [backends.{backend}], "
        f"or delete the keys by name"
    )


def not_atomic(name: str, backend: str) -> CommandError:
    return CommandError(
        f"ERR '{name}' would change several keys at once, which backend '{backend}' can't do as one "
        f"step: use one command for each key"
    )


def no_replica(backend: str) -> CommandError:
    return backend_down(
        backend, "there is no replica that follows closely, and the route reads from nothing else"
    )


def one_database(backend: str) -> CommandError:
    return CommandError(
        f"ERR backend '{backend}' is a Redis Cluster, which has database 0 alone: SELECT 0, or route these "
        "keys to another backend"
    )


CROSS_SLOT: Final = "CROSSSLOT Keys in request don't hash to the same slot"


def not_movable(key: bytes, backend: str) -> CommandError:
    return CommandError(
        f"CROSSTIER '{quote(key)}' would have to go to or from backend '{backend}' in a form that the other "
        f"side does not know: copy its elements with commands of its type"
    )


def unknown_cursor(cursor: int) -> CommandError:
    return CommandError(f"ERR invalid cursor: {cursor} is not known (any more), start again with 0")


def cross_tier_exec(first: bytes, second: bytes) -> CommandError:
    return CommandError(
        f"CROSSTIER prefixes '{quote(first)}' and '{quote(second)}' can't share a "
        "transaction: they have different backends; nothing was done: send the commands without MULTI "
        '(redis-py: pipeline(transaction=False)), or set [transactions] across = "split"'
    )


def not_in_exec(name: str) -> CommandError:
    return CommandError(
        f"ERR '{name}' asks backends that must be waited for and can't be part of a transaction here; "
        "send it outside of MULTI"
    )


def exec_refused(error: CommandError) -> CommandError:
    """EXEC itself was refused before it ran."""
    return CommandError(f"EXECABORT Transaction discarded because of: {error.text.partition(' ')[2]}")


def transaction_too_large(limit: int) -> CommandError:
    return CommandError(
        f"TOOLARGE a transaction of more than {limit} bytes (query_buffer_max): send it in parts"
    )


def subscribed(name: str) -> CommandError:
    return CommandError(
        f"ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
        "allowed in this context"
    )


def no_samples(event: bytes) -> CommandError:
    return CommandError(f"ERR No samples available for event '{quote(event)}'")


def config_not_rewritten(reason: str) -> CommandError:
    return CommandError(f"ERR Rewriting config file: {reason}")


def not_purgeable(backend: str) -> CommandError:
    return CommandError(
        f"ERR the pattern reaches backend '{backend}', which is not flushable: set flushable = true in "
        f"[backends.{backend}], or add FORCE"
    )
