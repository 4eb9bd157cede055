"""The statements of the Postgres store: its schema, and every query, for one table name.

None needs session state, so that they run through a transaction pooler.  Arrays reach the planner
behind a sub-select, ``(select $1::bytea[])``: it then can't see their length, so that a plan made for one
batch is as good as for any other and the server plans once instead of at each execution (a third of
its time for a batch of ten, measured on Postgres 15).  Rows are locked in the order in which they are
given; who calls gives them in the order of their keys, so that commits wait for each other in line.

With ``notify``, every statement that changes records takes two arguments more, the channel and the messages
to send there if it changes any (``postgres_notices``).
"""

from __future__ import annotations

from typing import Final

from backends.base import CHUNKED_KINDS, Want
from backends.versions import SEALS

LAYOUT: Final = 3
"""Version of the tables; what made it of the one before is in ``Statements.steps``."""
# Two proxies that start at once must not create, or change, the same table; any constant of ours will do.
CREATION_LOCK: Final = 0x72656474696572

_COLUMNS: Final = "db, key, kind, write_id, expire_at, raw_size, value"
_ROWS: Final = (
    "unnest((select $1::smallint[]), (select $2::bytea[]), (select $3::smallint[]), (select $4::bigint[]),"
    " (select $5::bigint[]), (select $6::bigint[]), (select $7::bytea[])"
)
_REPLACE: Final = (
    "kind = excluded.kind, write_id = excluded.write_id, expire_at = excluded.expire_at,"
    " raw_size = excluded.raw_size, value = excluded.value"
)
_NAMED: Final = "db = $1 and key = any((select $2::bytea[])::bytea[])"
_CHUNKED: Final = f"in ({', '.join(map(str, sorted(CHUNKED_KINDS)))})"
_RANGE: Final = "db = $1 and key >= $2 and key < $3"


class Statements:
    """``table`` is a name, or ``schema.name``, of which the names of its index and side tables are made."""

    def __init__(self, table: str, bulk_max: int, notify: bool = False) -> None:
        schema, _, name = table.rpartition(".")
        home = f"{quoted(schema)}." if schema else ""
        main = f"{home}{quoted(name)}"
        meta = f"{home}{quoted(name + '_meta')}"
        aside = f"{home}{quoted(name + '_quarantine')}"
        chunks = f"{home}{quoted(name + '_chunks')}"
        drop = f"{home}{quoted(name + '_drop_chunks')}"

        self.rights: Final = {
            main: ("select", "insert", "update", "delete"),
            meta: ("select",),
            aside: ("select", "insert", "delete"),
        }
        # Of what older layouts do not have.
        self.later_rights: Final = {chunks: ("select", "insert", "delete")}
        # $1 names of tables.
        self.exist: Final = "select bool_and(to_regclass(name) is not null) from unnest($1::text[]) name"
        # $1 names of tables, $2 a right for each.
        self.usable: Final = (
            "select bool_and(has_table_privilege(name, needed))"
            " from unnest($1::text[], $2::text[]) n(name, needed)"
        )
        # Fixed-width columns first, without padding between them; the payload last, so that what stands
        # before it is read without it.  It is compressed already: EXTERNAL spares the server the attempt,
        # and lets octet_length read its size from the row.  The free tenth of each page lets a rewritten
        # row stay on its page, which spares the indexes (a heap-only tuple).
        self.lock_layout: Final = f"select pg_advisory_xact_lock({CREATION_LOCK})"
        self.create: Final = f"""
            {self.lock_layout};
            create table if not exists {main} (
                write_id bigint not null, expire_at bigint not null, raw_size bigint not null,
                db smallint not null, kind smallint not null, key bytea not null,
                value bytea not null,
                primary key (db, key)) with (fillfactor = 90);
            alter table {main} alter value set storage external;
            create index if not exists {quoted(name + "_expire_at")} on {main} (expire_at)
                where expire_at > 0;
            create table if not exists {aside} (
                db smallint not null, key bytea not null, write_id bigint not null, kind smallint not null,
                expire_at bigint not null, raw_size bigint not null, value bytea,
                reason text not null, moved_at bigint not null,
                primary key (db, key, write_id));
            {_chunks(main, chunks, drop)}
            create table if not exists {meta} (
                schema_version integer not null, seal_version integer not null);
            insert into {meta} select {LAYOUT}, {SEALS} where not exists (select from {meta})"""
        # What makes the tables of the version before those of a version.
        self.steps: Final = {
            2: f"alter table {meta} add column seal_version integer not null default 1",
            3: _chunks(main, chunks, drop),
        }
        self.layout: Final = f"select max(schema_version) from {meta}"
        self.seals: Final = f"select max(seal_version) from {meta}"
        # They never go back: several proxies may be at it.
        self.record: Final = (
            f"update {meta} set schema_version = greatest(schema_version, {LAYOUT}),"
            f" seal_version = greatest(seal_version, {SEALS})"
        )

        # $1 db, $2 keys, $3 now.
        payload = {
            Want.NOTHING: "null::bytea",
            Want.META: "null::bytea",
            Want.VALUE: f"case when octet_length(value) <= {bulk_max} then value end",
            Want.WHOLE: "value",
        }
        size = "octet_length(value)"
        with_chunks = (
            f"{size} + case when kind {_CHUNKED} then (select coalesce(sum(octet_length(c.value)), 0)"
            f" from {chunks} c where c.db = m.db and c.key = m.key)::bigint else 0 end"
        )
        self.load: Final = {  # the key, then as a Record has them
            want: f"select key, {value}, kind, write_id, expire_at, raw_size,"
            f" {with_chunks if want is Want.WHOLE else size}"
            f" from {main} m where {_NAMED} and (expire_at = 0 or expire_at > $3)"
            for want, value in payload.items()
        }
        # $1 db, $2 keys.
        self.tokens: Final = f"select key, write_id, expire_at from {main} where {_NAMED}"

        # $1..$7 the columns.
        put = (
            f"insert into {main} ({_COLUMNS}) select * from {_ROWS})"
            f" on conflict (db, key) do update set {_REPLACE}"
        )
        self.put: Final = f"with done as ({put} returning 1) {_told(8)}" if notify else put
        # $1..$7 the columns, of which kind, raw size and value may be null to keep what is there; $8 the
        # tokens expected (null: no condition), $9 those new write ids that expect no live record, $10 now.
        # Returns the new write ids of the rows whose condition held.
        #
        # A row with an expected token is locked first, so that it can't change before its turn, nor be
        # inserted anew.  One that must be absent may appear until the very insert: only there, on
        # conflict, can that condition be checked.
        put_if = f"""
            insert into {main} as old ({_COLUMNS})
            select n.db, n.key, coalesce(n.kind, r.kind), n.write_id, n.expire_at,
                coalesce(n.raw_size, r.raw_size), coalesce(n.value, r.value)
            from {_ROWS}, (select $8::bigint[])) n({_COLUMNS}, expect)
            left join lateral (
                select kind, raw_size, value from {main} t
                where t.db = n.db and t.key = n.key and n.expect > 0 and t.write_id = n.expect
                and (t.expire_at = 0 or t.expire_at > $10)
                for update) r on true
            where n.expect is null or n.expect = 0 or r.kind is not null
            on conflict (db, key) do update set {_REPLACE}
            where excluded.write_id <> all($9::bigint[]) or (old.expire_at > 0 and old.expire_at <= $10)
            returning write_id"""
        self.put_if: Final = _telling(put_if, 11) if notify else put_if
        # As put_if; $11 dbs, $12 keys, $13 ids, $14 values of chunks that are new, $15 the write ids of their
        # rows, $16 dbs, $17 keys, $18 ids of those that are gone, $19 the write ids of their rows.
        put_chunks = f"""{put_if}), added as (
                insert into {chunks} (db, key, id, value) select n.db, n.key, n.id, n.value
                from unnest((select $11::smallint[]), (select $12::bytea[]), (select $13::bigint[]),
                    (select $14::bytea[]), (select $15::bigint[])) n(db, key, id, value, write_id)
                where exists (select from done d where d.write_id = n.write_id)),
            gone as (
                delete from {chunks} c using unnest((select $16::smallint[]), (select $17::bytea[]),
                    (select $18::bigint[]), (select $19::bigint[])) n(db, key, id, write_id)
                where c.db = n.db and c.key = n.key and c.id = n.id
                and exists (select from done d where d.write_id = n.write_id)"""
        self.put_chunks: Final = (
            _telling(put_chunks, 20) if notify else f"with done as ({put_chunks}) select write_id from done"
        )
        # $1 dbs, $2 keys, $3 ids.
        self.load_chunks: Final = f"""
            select c.db, c.key, c.id, c.value
            from unnest((select $1::smallint[]), (select $2::bytea[]), (select $3::bigint[])) n(db, key, id)
            join {chunks} c on c.db = n.db and c.key = n.key and c.id = n.id"""
        # $1 db, $2 keys, $3 the tokens expected (null: no condition), $4 now.  Returns the tokens of what was
        # deleted.  Locked first, in order: a scan that finds several keys may find them in any order.
        delete = f"""
            delete from {main} where db = $1 and key = any(array(
                select r.key from unnest((select $2::bytea[]), (select $3::bigint[])) n(key, expect)
                cross join lateral (
                    select key from {main} t
                    where t.db = $1 and t.key = n.key and (n.expect is null
                        or t.write_id = n.expect and (t.expire_at = 0 or t.expire_at > $4))
                    for update) r))
            returning write_id"""
        self.delete: Final = _telling(delete, 5) if notify else delete
        # $1 dbs, $2 keys.  Locks every key, and those that are not there by a record that is expired (absent
        # to all) and dies with the transaction: a conflicting row is locked even if it is not updated.
        self.lock: Final = f"""
            insert into {main} as old ({_COLUMNS})
            select db, key, 0, 0, 1, 0, '' from unnest($1::smallint[], $2::bytea[]) n(db, key)
            on conflict (db, key) do update set kind = old.kind where false"""

        # $1 db, $2 first key, $3 the key after the last, $4 now, $5 limit.
        self.scan: Final = f"""
            select key, kind, expire_at from {main}
            where {_RANGE} and (expire_at = 0 or expire_at > $4) order by key limit $5"""
        # $1 db, $2 first key, $3 the key after the last, $4 now.  The first count walks the key's index
        # alone, the second what has expired and is not swept yet.
        self.size: Final = f"""
            select (select count(*) from {main} where {_RANGE})
            - (select count(*) from {main} where expire_at > 0 and expire_at <= $4 and {_RANGE})"""
        # $1 now, $2 limit, $3 an expiry from which on; how many went, and the last one's expiry.
        self.sweep: Final = f"""
            with gone as (delete from {main} where ctid = any(array(
                select ctid from {main} where expire_at > 0 and expire_at <= $1 and expire_at >= $3
                order by expire_at limit $2 for update skip locked)) returning expire_at)
            select count(*), coalesce(max(expire_at), 0) from gone"""
        # $1 the db before, or -1.
        self.next_db: Final = f"select min(db) from {main} where db > $1"
        # $1 db, $2 first key, $3 the key after the last, $4 how many keys to pass over.
        self.boundary: Final = f"select key from {main} where {_RANGE} order by key offset $4 limit 1"
        # $1 db, $2 first key, $3 the key after the last.
        clear = f"delete from {main} where {_RANGE} returning 1"
        told = f", ({_told(4)})" if notify else ""
        self.clear: Final = f"with done as ({clear}) select (select count(*) from done){told}"
        # $1 the table.  Whatever way it is named in the configuration; a name of a channel has 63 bytes.
        self.channel: Final = """
            select case when octet_length(name) < 64 then name else 'redtier ' || md5(name) end from (
                select 'redtier ' || n.nspname || '.' || c.relname as name
                from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where c.oid = to_regclass($1)) named"""
        self.table: Final = main
        # $1 the channel, $2 a message.
        self.notify: Final = "select 1 from pg_notify($1, $2)"
        self.quarantine: Final = f"""
            insert into {aside} ({_COLUMNS}, reason, moved_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing"""
        # $1 db, $2 key, $3 write id of the one before, $4 limit.
        self.quarantined: Final = f"""
            select db, key, write_id, kind, octet_length(value), moved_at, reason from {aside}
            where (db, key, write_id) > ($1, $2, $3) order by db, key, write_id limit $4"""
        # $1 db, $2 key, $3 write id.
        self.release: Final = f"""
            with gone as (delete from {aside} where db = $1 and key = $2 and write_id = $3 returning 1)
            select count(*) from gone"""


def _chunks(main: str, chunks: str, drop: str) -> str:
    """The table of chunks, which go with their rows, and which who may write these may write too."""
    when = {
        "update": f"after update on {main} for each row"
        f" when (old.kind {_CHUNKED} and not new.kind {_CHUNKED})",
        "delete": f"after delete on {main} for each row when (old.kind {_CHUNKED})",
    }
    literal, escaped = f"'{_escaped(main)}'", _escaped(chunks)
    triggers = "".join(
        f"""
            drop trigger if exists chunks_{event} on {main};
            create trigger chunks_{event} {clause} execute procedure {drop}();"""
        for event, clause in when.items()
    )
    return f"""
            create table if not exists {chunks} (
                id bigint not null, db smallint not null, key bytea not null, value bytea not null,
                primary key (db, key, id));
            alter table {chunks} alter value set storage external;
            do $grant$ declare grantee text; begin
                for grantee in select coalesce(quote_ident(r.rolname), 'public')
                    from pg_class t, aclexplode(t.relacl) a left join pg_roles r on r.oid = a.grantee
                    where t.oid = {literal}::regclass and a.privilege_type = 'INSERT'
                loop
                    execute 'grant select, insert, delete on {escaped} to ' || grantee;
                end loop;
            end $grant$;
            create or replace function {drop}() returns trigger language plpgsql security definer
                set search_path from current as $drop$
            begin
                delete from {chunks} where db = old.db and key = old.key;
                return null;
            end $drop$;{triggers}"""


def _told(place: int) -> str:
    """Sends messages, whose channel and array are the arguments from ``place`` on, if ``done`` has a row."""
    return (
        f"select count(pg_notify(${place}, message)) as told"
        f" from unnest((select ${place + 1}::text[])) message where exists (select from done)"
    )


def _telling(change: str, place: int) -> str:
    """A statement that returns write ids, and sends messages as well."""
    return f"with done as ({change}) select write_id, told from done, ({_told(place)}) told"


def _escaped(name: str) -> str:
    """Within a literal."""
    return name.replace("'", "''")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
