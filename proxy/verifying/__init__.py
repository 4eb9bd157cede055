"""Looking for damage before users find it, in records that lie for years.

checking.py  whether one record is what was written: its digest, its header, its kind
walk.py      the same of all records of a store, batch by batch; pace.py how fast
scrub.py     the walk that a server makes all the time, in the background
asking.py    TIER VERIFY and TIER QUARANTINE
repairs.py   a damaged record's value from another backend
command.py   ``redtier verify``, a process of its own;   views.py   how far it is
"""
