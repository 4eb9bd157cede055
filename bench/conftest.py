"""Measures the tree that REDTIER_TREE names, as the tests do."""

from __future__ import annotations

import sys

from tests.servers import TREE

sys.path.insert(0, str(TREE))
