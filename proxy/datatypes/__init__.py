"""Values and algorithms of Redis' data types; no wire, no I/O."""
