"""The server: from a client's socket to a handler and back.

A command's way, module by module:

- ``connection`` pumps bytes and keeps replies in order; ``resp`` is the wire format, without I/O;
- ``session`` is one client's state; ``dispatch`` checks a command against its row in ``commands``;
  ``slowpath`` runs what is out of the ordinary, ``scheduler`` lets go on who has waited;
- ``router`` finds the home of a key; ``fanout`` splits a command over several homes;
- ``commands`` holds the handlers, ``keyspace`` is what they see, ``datatypes`` what they work on;
- ``tier`` runs handlers on a cold backend: load, run, commit; ``nearcache`` keeps copies of what it read.

``config`` and ``options`` read the configuration, ``server`` builds everything from it, ``listening``
is where clients come in, and ``__main__`` is the command line; ``http`` and ``metrics`` tell operators
how it is.  Leaves that anyone may import: ``clock``, ``errors``, ``lru``, ``prefixes``.
"""

__version__ = "0.1.0"
