// Puts a JavaScript client through its paces on keys of every home: node exercise.mjs CLIENT PORT [RESP]
// It ends with the line "done"; a promise that is not kept ends it with what was expected and what came.

import assert from "node:assert/strict";

const [client, port, resp] = process.argv.slice(2);
const prefixes = ["short:", "working:", "long:", "blob:", "note:"];
const sorted = (names) => [...names].sort();

// What the two clients name or shape differently, under one name.
const clients = {
  async ioredis() {
    const { default: Redis } = await import("ioredis");
    const redis = new Redis({ port: Number(port), maxRetriesPerRequest: 1 });
    return {
      command: (...words) => redis.call(...words.map(String)),
      get: (key) => redis.get(key),
      set: (key, value) => redis.set(key, value),
      setFor: (key, value, seconds) => redis.set(key, value, "EX", seconds),
      setIfAbsent: (key, value) => redis.set(key, value, "NX"),
      buffers: async (key, value) => {
        await redis.set(key, value);
        return redis.getBuffer(key);
      },
      mset: (entries) => redis.mset(entries),
      mget: (keys) => redis.mget(keys),
      del: (keys) => redis.del(...keys),
      ttl: (key) => redis.ttl(key),
      expire: (key, seconds) => redis.expire(key, seconds),
      persist: (key) => redis.persist(key),
      incr: (key) => redis.incr(key),
      pipeline: async (keys) => {
        const pipeline = redis.pipeline();
        keys.forEach((key) => pipeline.set(key, key).get(key).incr(`${key}:n`));
        return (await pipeline.exec()).map(([error, reply]) => error ?? reply);
      },
      scan: async (match) => {
        const found = [];
        for await (const page of redis.scanStream({ match, count: 7 })) found.push(...page);
        return found;
      },
      quit: () => redis.quit(),
    };
  },

  async "node-redis"() {
    const { RESP_TYPES, createClient } = await import("redis");
    const options = { RESP: Number(resp), socket: { port: Number(port), reconnectStrategy: false } };
    const redis = await createClient(options).on("error", console.error).connect();
    return {
      command: (...words) => redis.sendCommand(words.map(String)),
      get: (key) => redis.get(key),
      set: (key, value) => redis.set(key, value),
      setFor: (key, value, seconds) => redis.set(key, value, { expiration: { type: "EX", value: seconds } }),
      setIfAbsent: (key, value) => redis.set(key, value, { condition: "NX" }),
      buffers: async (key, value) => {
        await redis.set(key, value);
        return redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }).get(key);
      },
      mset: (entries) => redis.mSet(entries),
      mget: (keys) => redis.mGet(keys),
      del: (keys) => redis.del(keys),
      ttl: (key) => redis.ttl(key),
      expire: (key, seconds) => redis.expire(key, seconds),
      persist: (key) => redis.persist(key),
      incr: (key) => redis.incr(key),
      // What is sent within one turn of the loop goes out in one pipeline.
      pipeline: (keys) =>
        Promise.all(keys.flatMap((key) => [redis.set(key, key), redis.get(key), redis.incr(`${key}:n`)])),
      scan: async (match) => {
        const found = [];
        for await (const page of redis.scanIterator({ MATCH: match, COUNT: 7 })) found.push(...page);
        return found;
      },
      quit: () => redis.close(),
    };
  },
};

const redis = await clients[client]();

for (const prefix of prefixes) {
  const key = `${prefix}key`;
  assert.equal(await redis.get(key), null);
  assert.equal(await redis.set(key, "välue"), "OK");
  assert.equal(await redis.get(key), "välue");
  assert.equal(await redis.setIfAbsent(key, "other"), null);
  const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 256));
  assert.deepEqual(await redis.buffers(key, bytes), bytes);

  assert.equal(await redis.setFor(key, "brief", 100), "OK");
  assert.ok((await redis.ttl(key)) > 90);
  assert.ok(await redis.persist(key));
  assert.equal(await redis.ttl(key), -1);
  assert.ok(await redis.expire(key, 1000));
  assert.ok((await redis.ttl(key)) > 900);

  assert.equal(await redis.incr(`${prefix}number`), 1);
  await assert.rejects(redis.incr(key), /ERR value is not an integer or out of range/);
  assert.equal(await redis.command("APPEND", key, "er"), 7);
  assert.equal(await redis.del([key, `${prefix}number`]), 2);

  const keys = Array.from({ length: 30 }, (_, index) => `${prefix}many:${index}`);
  assert.deepEqual(
    await redis.pipeline(keys),
    keys.flatMap((each) => ["OK", each, 1]),
  );
  assert.deepEqual(sorted(await redis.scan(`${prefix}many:*[0-9]`)), sorted(keys));
  assert.equal(await redis.del(keys.flatMap((each) => [each, `${each}:n`])), 60);
}

// On all homes at once.
const entries = Object.fromEntries(prefixes.map((prefix) => [`${prefix}all`, `of ${prefix}`]));
assert.equal(await redis.mset(entries), "OK");
assert.deepEqual(await redis.mget([...Object.keys(entries), "none"]), [...Object.values(entries), null]);
assert.deepEqual(sorted(await redis.scan("*all")), sorted(Object.keys(entries)));
const among = prefixes.flatMap((prefix) => Array.from({ length: 5 }, (_, index) => `${prefix}${index}`));
assert.deepEqual(
  await redis.pipeline(among),
  among.flatMap((each) => ["OK", each, 1]),
);
await assert.rejects(redis.command("MSETNX", "short:a", 1, "long:a", 1), /CROSSTIER/);
assert.equal(await redis.del(Object.keys(entries)), prefixes.length);
await redis.quit();
console.log("done");
