"""The one operation that every transition of a flow goes through.

1. finish the transition that an interrupted process left open in the ledger;
2. complete what a person moved in MLflow since, and write it into the ledger as theirs;
3. decide on what stands where now, write what is wanted into the ledger, which locks the flow, and carry it out.

What serves was verified a moment before, whoever wants it.
"""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ml_core.errors import FlowBusyError, ModelFlowError, PackageError, RegistryError, VersionNotFoundError
from ml_core.flow import steps
from ml_core.flow.ledger import ABANDONED, Entry
from ml_core.flow.moves import people_move
from ml_core.flow.shelf import Standing
from ml_core.flow.versions import Versions

Decision = Callable[[Entry, Standing], Entry | None]

_WAIT_S, _PAUSE_S = 180.0, 0.02


class Transitions(Versions):
    """The flows of one MLflow registry, and how a decision about one is carried out."""

    def _move(self, flow: str, version: int, decide: Decision, who: str | None) -> Entry:
        """Operate after proving the version that is to serve."""
        with self.proved(self.version(flow, version)):
            pass
        return self._operate(flow, decide, who)

    def _operate(self, flow: str, decide: Decision, who: str | None = None) -> Entry:
        """Bring the flow into order, then carry out what `decide` wants of it; return the last transition made."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            last, newest = self._settled(flow, deadline)
            seen = self._shelf.standing(flow, {last.champion, last.challenger, last.previous})
            theirs = people_move(last, seen)
            wanted = decide(last, seen) if theirs is None else self._verified(theirs, last)
            if wanted is None:
                return last
            if theirs is None:
                wanted = replace(wanted, who=who or self.who)
            held = self.ledger.begin(wanted, after=newest)
            if held is not None:
                made = self._carry_out(held)
                if theirs is None:
                    return made

    def _settled(self, flow: str, deadline: float | None = None) -> tuple[Entry, Entry]:
        """Return the last transition made and the newest row, after finishing an open one or waiting for its holder.

        Unless the last transition is the newest row, what follows was abandoned. Whoever inserts after that row knows
        that nothing came in between.
        """
        deadline = deadline or time.monotonic() + _WAIT_S
        while (newest := self.ledger.newest(flow)).open:
            if time.monotonic() > deadline:
                raise FlowBusyError(
                    f"{flow}: expected entry {newest.number} of the ledger ({newest.kind} of version {newest.version}"
                    f" by {newest.who}) settled within {_WAIT_S:.0f} s, found it at step {newest.step!r}; try again"
                )
            if (taken := self.ledger.take_over(newest)) is not None:
                with suppress(VersionNotFoundError):  # it is abandoned then, and the ledger says why
                    self._carry_out(taken)
            else:
                time.sleep(_PAUSE_S * random.uniform(0.5, 2.0))  # noqa: S311 - waiters must not march in step
        return (newest if newest.step != ABANDONED else self.ledger.last(flow)), newest

    def _carry_out(self, held: Entry) -> Entry:
        """Make the steps of a held entry, from the one it stands at, and settle it."""
        try:
            for name, make in steps.of(held, self._shelf):
                self.ledger.mark(held, name)
                make()
            return self.ledger.settle(held)
        except VersionNotFoundError as error:
            self.ledger.settle(held, step=ABANDONED, why=f"{held.why}; abandoned, a version is gone: {error}")
            raise
        except FlowBusyError:
            raise
        except BaseException:
            self.ledger.release(held)
            raise

    def _verified(self, theirs: Entry, last: Entry) -> Entry:
        """Return a person's move as it is to be carried out: undone when the version they want served is not whole."""
        if theirs.champion in {None, last.champion}:
            return theirs
        try:
            with self.proved(self.version(theirs.flow, int(theirs.champion or 0))):
                return theirs
        except (PackageError, RegistryError) as error:
            if isinstance(error, ModelFlowError) and error.retryable and not isinstance(error, VersionNotFoundError):
                raise
            stays = last.champion if last.champion and self._shelf.find(last.flow, last.champion) else None
            return replace(
                self._same(last),
                kind="restore",
                version=theirs.champion,
                champion=stays,
                who=self.who,
                why=f"{theirs.who}: {theirs.why}, but version {theirs.champion} is not whole: {error}",
            )

    @staticmethod
    def _same(last: Entry) -> Entry:
        """Return an entry that changes nothing."""
        return Entry(
            last.flow,
            before=last.champion,
            champion=last.champion,
            challenger=last.challenger,
            previous=last.previous,
        )

    def _champion(self, last: Entry, version: int) -> Entry:
        """Return an entry after which `version` is champion."""
        return replace(
            self._same(last),
            version=version,
            champion=version,
            challenger=None if last.challenger == version else last.challenger,
            previous=last.champion,
        )
