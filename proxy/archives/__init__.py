"""``redtier backup`` and ``redtier restore``: keys of a backend in a file, and back to it or to any other.

backup.py   reads a backend's keys into an archive (``backends.archive``), and goes on where it was ended
restore.py  verifies an archive, and writes its keys to a backend
command.py  what the command line starts: its errors, signals and exit codes
"""
