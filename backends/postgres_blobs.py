"""The statements about blobs beside a table of records: which there are, and how many rows point to each.

A row's own transaction keeps the count: triggers look at each row that is written or removed, whoever does
it, and refuse one whose blob is not there.  So what a count says is never behind the rows, and a row never
ahead of its blob.

    refs        rows that point to the blob
    ready       whether the object is known to be in its bucket: it had a row once, and was not found damaged
    deleting    whether somebody removes it: no row may point to it any more
    idle_since  ms since the epoch, by the database's clock: when it was last claimed, or a row left it, or
                it was marked as ``deleting``

All times are the database's, so that no two proxies disagree about a grace period.
"""

from __future__ import annotations

from typing import Final

from backends.pointers import DIGEST_SIZE, GENERATION_SIZE, POINTER_MAX
from backends.postgres_sql import CREATION_LOCK, quoted
from backends.seal import POINTER_VERSION

BLOB_GONE: Final = "RT001"
"""The SQLSTATE of a commit whose row points to a blob that is not there, or is being removed."""

_NOW: Final = "(extract(epoch from clock_timestamp()) * 1000)::bigint"
# The same when the statement began, which an index can be asked about.
_BEGUN: Final = "(extract(epoch from statement_timestamp()) * 1000)::bigint"


def _points(row: str) -> str:
    """Whether a row's value is a pointer; the size first, which is read without the value."""
    return (
        f"(octet_length({row}.value) <= {POINTER_MAX}"
        f" and substring({row}.value from 1 for 1) = '\\x{POINTER_VERSION:02x}')"
    )


def _named_by(row: str) -> str:
    return (
        f"digest = substring({row}.value from 2 for {DIGEST_SIZE})"
        f" and generation = substring({row}.value from {2 + DIGEST_SIZE} for {GENERATION_SIZE})"
    )


class BlobStatements:
    """``table`` is that of the records: a name, or ``schema.name``."""

    def __init__(self, table: str) -> None:
        schema, _, name = table.rpartition(".")
        home = f"{quoted(schema)}." if schema else ""
        main = f"{home}{quoted(name)}"
        blobs = f"{home}{quoted(name + '_blobs')}"
        count = f"{home}{quoted(name + '_count_blobs')}"
        events = {
            "insert": f"after insert on {main} for each row when ({_points('new')})",
            "update": f"after update on {main} for each row when (({_points('old')} or {_points('new')})"
            " and old.value is distinct from new.value)",
            "delete": f"after delete on {main} for each row when ({_points('old')})",
        }
        triggers = {f"blobs_{event}": when for event, when in events.items()}

        self.table: Final = blobs
        self.rights: Final = ("select", "insert", "update", "delete")
        self.exist: Final = f"""
            select to_regclass($1) is not null and {len(triggers)} = (
                select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                where t.tgrelid = to_regclass($2) and p.proname = $3)"""
        self.names: Final = (blobs, main, f"{name}_count_blobs"[:63])
        self.create: Final = f"""
            select pg_advisory_xact_lock({CREATION_LOCK});
            create table if not exists {blobs} (
                refs bigint not null, idle_since bigint not null,
                ready boolean not null, deleting boolean not null,
                digest bytea not null, generation bytea not null,
                primary key (digest, generation)) with (fillfactor = 90);
            create unique index if not exists {quoted(name + "_blobs_live")} on {blobs} (digest)
                where not deleting;
            create index if not exists {quoted(name + "_blobs_idle")} on {blobs} (idle_since) where refs = 0;
            create or replace function {count}() returns trigger language plpgsql
                set search_path from current as $count$
            begin
                if tg_op <> 'INSERT' and {_points("old")} then
                    update {blobs} set refs = refs - 1, idle_since = {_NOW} where {_named_by("old")};
                end if;
                if tg_op <> 'DELETE' and {_points("new")} then
                    update {blobs} set refs = refs + 1, ready = true
                    where {_named_by("new")} and not deleting;
                    if not found then
                        raise exception using errcode = '{BLOB_GONE}', message = 'the blob of a row is gone';
                    end if;
                end if;
                return null;
            end $count$;
            {"".join(f"drop trigger if exists {trigger} on {main};" for trigger in triggers)}
            {
            "".join(
                f"create trigger {trigger} {when} execute procedure {count}();"
                for trigger, when in triggers.items()
            )
        }"""

        # $1 digest, $2 a generation that was never used.  Returns the generation that counts, and whether its
        # object is in the bucket; from now on it has a grace period to get a row.
        self.claim: Final = f"""
            insert into {blobs} as b (refs, idle_since, ready, deleting, digest, generation)
            values (0, {_NOW}, false, false, $1::bytea, $2::bytea)
            on conflict (digest) where not deleting do update set idle_since = excluded.idle_since
            returning generation, ready"""
        # $1 digest, $2 generation of a blob that was found damaged.
        self.doubt: Final = f"""
            update {blobs} set ready = false where digest = $1::bytea and generation = $2::bytea"""
        # $1 grace in ms, $2 limit.  Marks what nothing has pointed to for so long, and returns it; among it
        # what somebody has marked and not removed since.  What may be under way to the bucket gets longer.
        self.mark: Final = f"""
            update {blobs} set deleting = true, idle_since = {_NOW}
            where (digest, generation) in (
                select digest, generation from {blobs} where refs = 0 and idle_since < {_BEGUN} - $1::bigint
                and (ready or idle_since < {_BEGUN} - 2 * $1::bigint)
                order by idle_since limit $2 for update skip locked)
            returning digest, generation"""
        # $1 digests, $2 generations: objects that are in the bucket no more.
        self.remove: Final = f"""
            with gone as (delete from {blobs} b using unnest($1::bytea[], $2::bytea[]) n(digest, generation)
                where b.digest = n.digest and b.generation = n.generation and b.deleting returning 1)
            select count(*) from gone"""
