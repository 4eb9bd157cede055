"""``redtier copy``: keys of one backend to another, while clients go on.  Its two ends are ``proxy.sides``.

passes.py   the passes over all keys, until one finds nothing that differs
state.py    where a copy stands
command.py  what the command line starts: its errors, signals and exit codes
"""
