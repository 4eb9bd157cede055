"""What is recorded in a store of the forms that are in use there, so that no release meets one unprepared.

There are two: the layout, which is of each kind of store and says how records lie in it, and the seals'
(``backends.seal``).  Each is that of the newest release that has opened the store.  A release brings the
layout of an older store up to its own when it opens it, a step for each version, all or nothing.  A store of
a newer release it refuses: it could not read what is there, or would write what that one does not expect.

A step must leave the store of use to the release before it: proxies of that may be at work meanwhile.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from backends.base import StoreError
from backends.seal import POINTER_VERSION

SEALS: Final = POINTER_VERSION
"""The newest form of what a record may hold, see ``seal``."""


class Versions(NamedTuple):
    layout: int
    seal: int

    def check(self, layout: int, place: str) -> None:
        """Raises StoreError where a newer release has written to ``place`` than one that knows ``layout``."""
        for what, found, known in (("layout", self.layout, layout), ("seals", self.seal, SEALS)):
            if found > known:
                raise StoreError(
                    f"{place} is of a newer release ({what} {found}, this one knows {known}): "
                    "use the release that wrote it, or a newer one"
                )
