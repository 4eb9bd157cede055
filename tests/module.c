/* A module for redis-server, with a command for each way in which keys can stand in it.
 *
 * The functions are found by name at run time, as the modules' interface has it
 * (redis.io/docs/latest/develop/reference/modules), so that no header of Redis' is needed.
 */
#include <stddef.h>
#include <stdint.h>

typedef struct Context Context;
typedef struct String String;
typedef int Command(Context *, String **, int);

/* How keys are found, in the layout that RedisModule_SetCommandInfo has been given since 7.0. */
enum { BY_INDEX = 2, BY_KEYWORD = 3, RANGE = 2, COUNTED = 3 };
typedef struct {
    const char *notes;
    uint64_t flags;
    int begin;
    union { int index; struct { const char *word; int from; } keyword; } where;
    int find;
    struct { int first, second, third; } how;
} KeySpec;
typedef struct {
    int version;
    size_t history, key_spec, argument;
} Sizes;
typedef struct {
    const Sizes *sizes;
    const char *summary, *complexity, *since;
    void *history;
    const char *tips;
    int arity;
    KeySpec *key_specs;
    void *arguments;
} CommandInfo;
enum { READS = 1 << 0 | 1 << 4 };  /* RO access */

static int (*GetApi)(const char *, void *);
static int (*CreateCommand)(Context *, const char *, Command *, const char *, int, int, int);
static int (*ReplyWithArray)(Context *, long);
static int (*ReplyWithString)(Context *, String *);
static int (*WrongArity)(Context *);
static void *(*Call)(Context *, const char *, const char *, ...);
static int (*ReplyWithCallReply)(Context *, void *);
static int (*ReplyWithNull)(Context *);
static int (*IsKeysPositionRequest)(Context *);
static void (*KeyAtPos)(Context *, int);
static int (*StringToLongLong)(const String *, long long *);
static void *(*BlockClient)(Context *, Command *, Command *, void (*)(Context *, void *), long long);

/* JSON-like: the value of one key, by the server's own GET. */
static int get(Context *context, String **argv, int argc) {
    if (argc != 2) return WrongArity(context);
    return ReplyWithCallReply(context, Call(context, "GET", "s", argv[1]));
}

static int set(Context *context, String **argv, int argc) {
    if (argc != 3) return WrongArity(context);
    return ReplyWithCallReply(context, Call(context, "SET", "!ss", argv[1], argv[2]));
}

/* What it was sent, as an array. */
static int echo(Context *context, String **argv, int argc) {
    ReplyWithArray(context, argc);
    for (int at = 0; at < argc; at++) ReplyWithString(context, argv[at]);
    return 0;
}

/* How many keys this server has. */
static int size(Context *context, String **argv, int argc) {
    (void)argv, (void)argc;
    return ReplyWithCallReply(context, Call(context, "DBSIZE", ""));
}

/* Keys before the last argument, which is their number: what no key spec can say. */
static int last(Context *context, String **argv, int argc) {
    long long keys;
    if (argc < 2 || StringToLongLong(argv[argc - 1], &keys) || keys < 0 || keys > argc - 2) keys = 0;
    if (IsKeysPositionRequest(context)) {
        while (keys) KeyAtPos(context, argc - 1 - (int)keys--);
        return 0;
    }
    return echo(context, argv, argc);
}

static int too_late(Context *context, String **argv, int argc) {
    (void)argv, (void)argc;
    return ReplyWithNull(context);
}

/* Waits so many ms, and nobody ever comes. */
static int waits(Context *context, String **argv, int argc) {
    long long ms;
    if (argc != 3 || StringToLongLong(argv[2], &ms)) return WrongArity(context);
    BlockClient(context, 0, too_late, 0, ms);
    return 0;
}

int RedisModule_OnLoad(void *context, String **argv, int argc) {
    (void)argv, (void)argc;
    /* The first member of a context is the function that finds all others. */
    GetApi = *(int (**)(const char *, void *))context;
    int (*SetModuleAttribs)(Context *, const char *, int, int);
    GetApi("RedisModule_SetModuleAttribs", &SetModuleAttribs);
    GetApi("RedisModule_CreateCommand", &CreateCommand);
    GetApi("RedisModule_ReplyWithArray", &ReplyWithArray);
    GetApi("RedisModule_ReplyWithString", &ReplyWithString);
    GetApi("RedisModule_WrongArity", &WrongArity);
    GetApi("RedisModule_Call", &Call);
    GetApi("RedisModule_ReplyWithCallReply", &ReplyWithCallReply);
    int (*CreateSubcommand)(void *, const char *, Command *, const char *, int, int, int);
    GetApi("RedisModule_CreateSubcommand", &CreateSubcommand);
    void *(*GetCommand)(Context *, const char *);
    GetApi("RedisModule_GetCommand", &GetCommand);
    int (*SetCommandInfo)(void *, const CommandInfo *);
    GetApi("RedisModule_SetCommandInfo", &SetCommandInfo);
    GetApi("RedisModule_ReplyWithNull", &ReplyWithNull);
    GetApi("RedisModule_IsKeysPositionRequest", &IsKeysPositionRequest);
    GetApi("RedisModule_KeyAtPos", &KeyAtPos);
    GetApi("RedisModule_StringToLongLong", &StringToLongLong);
    GetApi("RedisModule_BlockClient", &BlockClient);
    SetModuleAttribs(context, "tests", 1, 1);
    int failed = CreateCommand(context, "tests.get", get, "readonly fast", 1, 1, 1)
        || CreateCommand(context, "tests.set", set, "write deny-oom", 1, 1, 1)
        || CreateCommand(context, "tests.pairs", echo, "write", 1, -1, 2)
        || CreateCommand(context, "tests.keyless", echo, "readonly", 0, 0, 0)
        || CreateCommand(context, "tests.size", size, "readonly", 0, 0, 0)
        || CreateCommand(context, "tests.everywhere", echo, "readonly", 0, 0, 0)
        || CreateCommand(context, "tests.admin", echo, "admin", 0, 0, 0)
        || CreateCommand(context, "tests.last", last, "readonly getkeys-api", 0, 0, 0)
        || CreateCommand(context, "tests.wait", waits, "readonly blocking", 1, 1, 1)
        || CreateCommand(context, "tests.counted", echo, "readonly", 0, 0, 0)
        || CreateCommand(context, "tests.after", echo, "readonly", 0, 0, 0)
        || CreateCommand(context, "tests.both", 0, "", 0, 0, 0);
    if (failed) return failed;
    static const Sizes sizes = {1, 2 * sizeof(void *), sizeof(KeySpec), 0};
    static KeySpec counted[] = {
        {0, READS, BY_INDEX, {.index = 1}, COUNTED, {0, 1, 1}},
        {0},
    };
    static KeySpec after[] = {
        {0, READS, BY_KEYWORD, {.keyword = {"FROM", 1}}, RANGE, {-1, 1, 0}},
        {0},
    };
    CommandInfo info = {&sizes, .arity = -2, .key_specs = counted};
    failed = SetCommandInfo(GetCommand(context, "tests.counted"), &info);
    CommandInfo all = {&sizes, .tips = "request_policy:all_shards", .arity = -1};
    failed |= SetCommandInfo(GetCommand(context, "tests.everywhere"), &all);
    all.tips = "request_policy:all_shards response_policy:agg_sum";
    failed |= SetCommandInfo(GetCommand(context, "tests.size"), &all);
    info.key_specs = after;
    failed |= SetCommandInfo(GetCommand(context, "tests.after"), &info);
    void *both = GetCommand(context, "tests.both");
    failed |= CreateSubcommand(both, "keyed", echo, "readonly", 2, 2, 1);
    failed |= CreateSubcommand(both, "keyless", echo, "readonly", 0, 0, 0);
    return failed;
}
