"""Tell which branches nobody will call any more: what they have computed is freed.

A pipeline whose prompt changes at every step, or whose guidance ends, leaves branches behind. One
that comes back after all computes once more, and shows how long a branch of this run may stay away.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Steps for which a branch that has gone is known, should it come back.
_REMEMBERED = 4


class Attendance:
    """Notes which branches are called at every step of a run."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}  # branch to the last step at which it was called
        self._gone: set[int] = set()
        self._before: list[int] = []
        self._now: list[int] = []
        self._step = 0
        self._patience = 0

    def begin_step(self) -> list[int]:
        """Return the branches that have stayed away for longer than one ever came back after."""
        if not self._now:  # of a step at which there was nothing to decide, nobody knows
            return []
        self._before, self._now = self._now, []
        last, self._step = self._step, self._step + 1
        left = [
            branch
            for branch, seen in self._seen.items()
            if branch not in self._gone and last - seen > self._patience
        ]
        self._gone.update(left)
        return left

    def call(self, branches: Sequence[int]) -> list[int]:
        """Note a call.

        Args:
            branches: In its batch.

        Returns:
            Those whose place new ones have taken.
        """
        taken: list[int] = []
        for branch in branches:
            if branch in self._gone:
                self._gone.remove(branch)
                self._patience = max(self._patience, self._step - self._seen[branch] - 1)
            elif branch not in self._seen and not self._patience:
                place = len(self._now)
                taken += self._before[place : place + 1]
            self._seen[branch] = self._step
            self._now.append(branch)
        taken = [branch for branch in taken if self._seen[branch] < self._step]
        self._gone.update(taken)
        return taken

    def forgotten(self) -> list[int]:
        """Return the branches that have gone so long ago that they are new if they come back."""
        old = [branch for branch in self._gone if self._step - self._seen[branch] > _REMEMBERED]
        self._gone.difference_update(old)
        for branch in old:
            del self._seen[branch]
        return old
