/* A module for redis-server, with a command for each way in which keys can stand in it.
 *
 * The functions are found by name at run time, as the modules' interface has it
 * (redis.io/docs/latest/develop/reference/modules), so that no header of Redis' is needed.
 */
#include <stddef.h>

typedef struct Context Context;
typedef struct String String;
typedef int Command(Context *, String **, int);

static int (*GetApi)(const char *, void *);
static int (*CreateCommand)(Context *, const char *, Command *, const char *, int, int, int);
static int (*ReplyWithArray)(Context *, long);
static int (*ReplyWithString)(Context *, String *);
static int (*WrongArity)(Context *);
static void *(*Call)(Context *, const char *, const char *, ...);
static int (*ReplyWithCallReply)(Context *, void *);

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
    SetModuleAttribs(context, "tests", 1, 1);
    int failed = CreateCommand(context, "tests.get", get, "readonly fast", 1, 1, 1)
        || CreateCommand(context, "tests.set", set, "write deny-oom", 1, 1, 1)
        || CreateCommand(context, "tests.pairs", echo, "write", 1, -1, 2)
        || CreateCommand(context, "tests.keyless", echo, "readonly", 0, 0, 0)
        || CreateCommand(context, "tests.admin", echo, "admin", 0, 0, 0);
    return failed;
}
