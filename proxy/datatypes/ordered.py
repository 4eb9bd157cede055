"""Members by score, for one or ten million of them: added, removed, ranked and paged in O(log n).

A list of blocks, each of some hundred members side by side with their scores, so that a search is two binary
searches and a change moves a few kilobytes at most.  A Fenwick tree of the blocks' lengths turns places into
ranks; it is made when somebody asks for a rank, and lasts until a block is split or goes.

Order is by score, and by bytes among equal scores, as in Redis.
"""

from __future__ import annotations

from typing import Final, cast

from mypy_extensions import i64, mypyc_attr

from proxy.datatypes.undo import UNDO

BLOCK_MAX: Final = 512  # members of a block
BLOCK_FILL: Final = 384  # where many are put in at once
BLOCK_MIN: Final = 128  # a smaller one joins its neighbour, if both together are no more than BLOCK_FILL


# Acyclic, all of these: without the collector's header they are smaller.
@mypyc_attr(acyclic=True)
class Block:
    """A run of members.  A score is an object here: the same one that others have of its member."""

    def __init__(self, members: list[bytes], scores: list[object]) -> None:
        self.members: list[bytes] = members
        self.scores: list[object] = scores

    def keep(self) -> None:
        """Have it undone what is about to be done."""
        if UNDO.first(self):
            UNDO.step(self._restore, self.members[:], self.scores[:])

    def _restore(self, members: list[bytes], scores: list[object]) -> None:
        self.members = members
        self.scores = scores


@mypyc_attr(acyclic=True)
class Ordered:
    """Members with their scores, in order; each member is there once, which its holder sees to."""

    def __init__(self) -> None:
        self.count: int = 0
        self._blocks: list[Block] = []
        # By block, what parts it from the one before: it has nothing below that, the one before nothing else.
        # They lie side by side, since most of a search's time goes in fetching what it looks at.
        self._low_scores: list[object] = []
        self._low_members: list[bytes] = []
        self._tree: list[int] = []  # Fenwick, from 1 on; empty: to be made

    def __len__(self) -> int:
        return self.count

    def extend(self, members: list[bytes], scores: list[object]) -> None:
        """Add many, which are in order and come after all that are here."""
        for first in range(0, len(members), BLOCK_FILL):
            last = first + BLOCK_FILL
            self._add(len(self._blocks), Block(members[first:last], scores[first:last]))
        self.count += len(members)
        self._tree = []

    def copy(self) -> Ordered:
        other = Ordered()
        other.count = self.count
        other._blocks = [Block(block.members[:], block.scores[:]) for block in self._blocks]
        other._low_scores = self._low_scores[:]
        other._low_members = self._low_members[:]
        return other

    def insert(self, member: bytes, score: float, boxed: object) -> None:
        """Add a member that is not here; ``boxed`` is the score as an object."""
        if UNDO.open:
            self._keep()
        self.count += 1
        blocks = self._blocks
        if not blocks:
            self._add(0, Block([member], [boxed]))
            return
        number = self._block_of(member, score)
        block = blocks[number]
        if UNDO.open:
            block.keep()
        at = _place(block, member, score)
        block.members.insert(at, member)
        block.scores.insert(at, boxed)
        if len(block.members) > BLOCK_MAX:
            self._split(number, at)
        elif self._tree:
            self._resize(number, 1)

    def remove(self, member: bytes, score: float) -> bytes:
        """Remove a member that is here; the object that it was held by."""
        if UNDO.open:
            self._keep()
        self.count -= 1
        number = self._block_of(member, score)
        block = self._blocks[number]
        if UNDO.open:
            block.keep()
        at = _place(block, member, score)
        held = block.members.pop(at)
        block.scores.pop(at)
        self._shrunk(number, 1)
        return held

    def rank(self, member: bytes, score: float) -> int:
        """How many come before a member, here or not."""
        if not self._blocks:
            return 0
        number = self._block_of(member, score)
        return self._before(number) + _place(self._blocks[number], member, score)

    def rank_of_score(self, score: float, after: bool) -> int:
        """How many have a score below ``score``; ``after``: or equal to it."""
        lows = self._low_scores
        if not lows:
            return 0
        low: i64 = 1
        high: i64 = len(lows)
        while low < high:
            middle = (low + high) >> 1
            first = cast(float, lows[middle])
            if first < score or (after and first == score):
                low = middle + 1
            else:
                high = middle
        scores = self._blocks[low - 1].scores
        start: i64 = 0
        end: i64 = len(scores)
        while start < end:
            middle = (start + end) >> 1
            each = cast(float, scores[middle])
            if each < score or (after and each == score):
                start = middle + 1
            else:
                end = middle
        return self._before(low - 1) + start

    def rank_of_name(self, name: bytes, after: bool) -> int:
        """How many members are below ``name`` (``after``: or equal to it), where all scores are equal."""
        lows = self._low_members
        if not lows:
            return 0
        low: i64 = 1
        high: i64 = len(lows)
        while low < high:
            middle = (low + high) >> 1
            first = lows[middle]
            if first < name or (after and first == name):
                low = middle + 1
            else:
                high = middle
        members = self._blocks[low - 1].members
        start: i64 = 0
        end: i64 = len(members)
        while start < end:
            middle = (start + end) >> 1
            each = members[middle]
            if each < name or (after and each == name):
                start = middle + 1
            else:
                end = middle
        return self._before(low - 1) + start

    def slice(self, start: int, stop: int) -> tuple[list[bytes], list[object]]:
        """Members and scores of the ranks from ``start`` to before ``stop``."""
        members: list[bytes] = []
        scores: list[object] = []
        missing = min(stop, self.count) - start
        if missing <= 0:
            return members, scores
        number, at = self._find(start)
        while missing > 0:
            block = self._blocks[number]
            end = at + missing
            members += block.members[at:end]
            scores += block.scores[at:end]
            missing -= len(block.members) - at
            number += 1
            at = 0
        return members, scores

    def cut(self, start: int, stop: int) -> list[bytes]:
        """Remove the ranks from ``start`` to before ``stop``; their members."""
        cut: list[bytes] = []
        missing = min(stop, self.count) - start
        if missing <= 0:
            return cut
        number, at = self._find(start)
        end = at + missing
        block = self._blocks[number]
        if UNDO.open:
            self._keep()
            block.keep()
        self.count -= missing
        if end <= len(block.members):
            cut = block.members[at:end]
            del block.members[at:end]
            del block.scores[at:end]
            self._shrunk(number, missing)
            return cut
        first = number
        while missing > 0:
            block = self._blocks[number]
            if UNDO.open:
                block.keep()
            end = min(at + missing, len(block.members))
            cut += block.members[at:end]
            missing -= end - at
            del block.members[at:end]
            del block.scores[at:end]
            number += 1
            at = 0
        # All but the outermost are empty, and those may be.
        kept = [each for each in range(first, number) if self._blocks[each].members]
        if UNDO.open:
            self._keep_blocks(first, number, len(kept))
        self._blocks[first:number] = [self._blocks[each] for each in kept]
        self._low_scores[first:number] = [self._low_scores[each] for each in kept]
        self._low_members[first:number] = [self._low_members[each] for each in kept]
        self._tree = []
        for near in (first, first - 1):
            if 0 <= near < len(self._blocks) and len(self._blocks[near].members) < BLOCK_MIN:
                self._join(near)
        return cut

    def dismantle(self, count: int) -> bool:
        """Let go of about ``count`` members; whether there are more."""
        while self._blocks and count > 0:
            number = len(self._blocks) - 1
            count -= len(self._blocks[number].members)
            self._drop(number)
        return bool(self._blocks)

    def _keep(self) -> None:
        """Have it undone what is about to be done to the number of members."""
        if UNDO.first(self):
            UNDO.step(self._restore, self.count)

    def _keep_blocks(self, first: i64, last: i64, count: int) -> None:
        """The blocks from ``first`` to before ``last`` are about to be replaced by ``count`` others."""
        UNDO.splice(self._blocks, first, count, self._blocks[first:last])
        UNDO.splice(self._low_scores, first, count, self._low_scores[first:last])
        UNDO.splice(self._low_members, first, count, self._low_members[first:last])

    def _restore(self, count: int) -> None:
        self.count = count
        self._tree = []

    def _block_of(self, member: bytes, score: float) -> i64:
        """The block of a member that is there, or to be; there must be one."""
        lows = self._low_scores
        low: i64 = 1
        high: i64 = len(lows)
        while low < high:
            middle = (low + high) >> 1
            first = cast(float, lows[middle])
            if first < score or (first == score and self._low_members[middle] <= member):
                low = middle + 1
            else:
                high = middle
        return low - 1

    def _split(self, number: i64, at: i64) -> None:
        """Make two blocks of one that is full, in which something was added last at ``at``."""
        block = self._blocks[number]
        size: i64 = len(block.members)
        # What comes in order goes to the end each time, and leaves full blocks behind.
        half = size >> 1 if at < size - 1 else size - 1
        self._add(number + 1, Block(block.members[half:], block.scores[half:]))
        del block.members[half:]
        del block.scores[half:]

    def _add(self, number: i64, block: Block) -> None:
        if UNDO.open:
            self._keep_blocks(number, number, 1)
        self._blocks.insert(number, block)
        self._low_scores.insert(number, block.scores[0])
        self._low_members.insert(number, block.members[0])
        self._tree = []

    def _drop(self, number: i64) -> None:
        if UNDO.open:
            self._keep_blocks(number, number + 1, 0)
        self._blocks.pop(number)
        self._low_scores.pop(number)
        self._low_members.pop(number)
        self._tree = []

    def _shrunk(self, number: i64, by: int) -> None:
        """See to a block that has lost members."""
        if (len(self._blocks[number].members) >= BLOCK_MIN or not self._join(number)) and self._tree:
            self._resize(number, -by)

    def _join(self, number: i64) -> bool:
        """Let a small block go, or join its neighbour; whether it did."""
        blocks = self._blocks
        size = len(blocks[number].members)
        if size:
            if len(blocks) == 1:
                return False
            left = number if number + 1 < len(blocks) else number - 1
            if len(blocks[left].members) + len(blocks[left + 1].members) > BLOCK_FILL:
                return False
            if UNDO.open:
                blocks[left].keep()
            blocks[left].members += blocks[left + 1].members
            blocks[left].scores += blocks[left + 1].scores
            number = left + 1
        self._drop(number)
        return True

    def _before(self, number: i64) -> i64:
        """How many members are in the blocks before one."""
        if not number:
            return 0
        tree = self._tree or self._plant()
        total: i64 = 0
        while number > 0:
            total += tree[number]
            number &= number - 1
        return total

    def _find(self, rank: i64) -> tuple[i64, i64]:
        """The block of a rank that is there, and the place in it."""
        if rank < len(self._blocks[0].members):
            return 0, rank
        tree = self._tree or self._plant()
        size: i64 = len(tree)
        step: i64 = 1
        while step < size:
            step <<= 1
        number: i64 = 0
        while step:
            ahead = number + step
            if ahead < size and tree[ahead] <= rank:
                number = ahead
                rank -= tree[ahead]
            step >>= 1
        return number, rank

    def _plant(self) -> list[int]:
        """Make the tree."""
        size: i64 = len(self._blocks)
        tree = [0, *[len(block.members) for block in self._blocks]]
        number: i64 = 1
        while number <= size:
            above = number + (number & -number)
            if above <= size:
                tree[above] += tree[number]
            number += 1
        self._tree = tree
        return tree

    def _resize(self, number: i64, by: i64) -> None:
        """Tell the tree of a block's new length."""
        tree = self._tree
        size: i64 = len(tree)
        number += 1
        while number < size:
            tree[number] += by
            number += number & -number


def _place(block: Block, member: bytes, score: float) -> i64:
    """Where in a block a member stands, or would."""
    scores = block.scores
    low: i64 = 0
    high: i64 = len(scores)
    while low < high:
        middle = (low + high) >> 1
        each = cast(float, scores[middle])
        if each < score or (each == score and block.members[middle] < member):
            low = middle + 1
        else:
            high = middle
    return low
