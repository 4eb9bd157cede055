"""Where keys live.

``base`` is the contract of a cold store: opaque records, loaded and committed in batches, conditionally.
``sqlite``, ``postgres`` and ``s3`` keep it; ``memory`` is the keyspace in the process, and ``redis`` forwards
to a server that is one itself.  ``seal`` turns a value into verifiable bytes and back, with ``codecs``;
``batching`` gathers requests while a store's connections are busy.
"""
