"""The judge is a real redis-server: the same requests go to it and to a target, and the replies are compared.

``corpus/`` holds written sequences, ``test_corpus`` plays them, ``test_generated`` plays what Hypothesis
makes up, ``test_keyless`` walks over all keys.  A new target is one line in ``targets.SERVERS``; what it
can't do as Redis does stands in ``refusals``.
"""
