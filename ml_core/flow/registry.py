"""The registry as a flow: publish, promote, refuse, roll back; and what trainers read from it.

MLflow's stages are the truth (None, Staging, Production, Archived); the aliases `challenger`, `champion` and
`previous` follow them through one operation, which every transition goes through:

1. finish the transition that an interrupted process left open in the ledger;
2. complete what a person moved in MLflow since, and write it into the ledger as theirs;
3. decide on what stands where now, write what is wanted into the ledger, which locks the flow, and carry it out.

Nothing is moved into Production that was not verified a moment before, whoever wants it.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from getpass import getuser
from pathlib import Path
from socket import gethostname

from ml_core.clock import Clock, SystemClock
from ml_core.errors import (
    FlowBusyError,
    HeadMovedError,
    ModelFlowError,
    PackageError,
    PromotionError,
    RegistryError,
    VersionNotFoundError,
)
from ml_core.flow import steps
from ml_core.flow.ledger import ABANDONED, Entry, Ledger
from ml_core.flow.moves import people_move
from ml_core.flow.package import MANIFEST, Package, file_digest, verify_package
from ml_core.flow.shelf import Shelf, Standing, described
from ml_core.flow.signing import check_signature, sign
from ml_core.flow.upload import EVALUATION, PACKAGE, finish_interrupted, upload
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.project import Project

_ALL = 200_000  # MLflow's own limit of one search
_PENDING_AMONG = 200
_WAIT_S, _PAUSE_S = 180.0, 0.02

Decision = Callable[[Entry, Standing], Entry | None]


class Registry:
    """The flows of one MLflow registry.

    Parameters
    ----------
    tracking_uri : str
        ``sqlite:///...``, ``postgresql://...`` or ``http://...``; anything MLflow keeps models in.
    ledger_uri : str, optional
        The database of the ledger; by default that of `tracking_uri`, where it is one.
    artifacts : str, optional
        Where a registry without a server keeps artifacts.
    signing_key : bytes, optional
        Signs what is published, and is required of what is moved into Production.
    clock : Clock
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        ledger_uri: str | None = None,
        artifacts: str | None = None,
        signing_key: bytes | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.who = f"{getuser()}@{gethostname()}"
        self._clock = clock or SystemClock()
        self._shelf = Shelf(tracking_uri, artifacts=artifacts)
        self._key = signing_key
        self._ledger_uri = ledger_uri or tracking_uri
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The history of every flow; opened when it is first asked for."""
        if self._ledger is None:
            self._ledger = Ledger(self._ledger_uri, clock=self._clock)
        return self._ledger

    # -- what is asked -------------------------------------------------------------------------------------------

    def head(self, flow: str) -> ModelVersion | None:
        """Return the newest accepted version, the one in Production; None for a flow without one."""
        found = self._shelf.in_production(flow)
        return None if found is None else described(found)

    def version(self, flow: str, number: int) -> ModelVersion:
        """Return one version; raise VersionNotFoundError when there is none of that number."""
        found = self._shelf.find(flow, number)
        if found is None:
            raise VersionNotFoundError(f"{flow} has no version {number}; see `modelflow versions {flow}`")
        return described(found)

    def versions(self, flow: str, *, newest: int = _ALL) -> list[ModelVersion]:
        """Return the `newest` versions that the flow published, or all, oldest first."""
        found = [each for each in self._shelf.newest(flow, newest) if "manifest_sha256" in each.tags]
        return [described(each) for each in found[::-1]]

    def pending(self, flow: str) -> list[ModelVersion]:
        """Return the versions that wait to be judged, oldest first, among the newest 200."""
        newest = self.versions(flow, newest=_PENDING_AMONG)
        return [version for version in newest if version.verdict is None and version.stage == "None"]

    def standing(self, flow: str) -> Standing:
        """Return what MLflow shows of the flow's stages and aliases now."""
        return self._shelf.standing(flow)

    def flows(self) -> list[str]:
        """Return the names of all registered models."""
        return [str(model.name) for model in self._shelf.flows()]

    def download(self, version: ModelVersion, directory: Path) -> Path:
        """Fetch a version's whole package, trainer state included, into `directory`; return the package's folder."""
        return self._shelf.fetch(version.mlflow_run_id, PACKAGE, directory)

    def download_evaluation(self, version: ModelVersion, directory: Path) -> Path:
        """Fetch the evidence a version was published with into `directory`; return its folder."""
        return self._shelf.fetch(version.mlflow_run_id, EVALUATION, directory)

    @contextmanager
    def proved(self, version: ModelVersion) -> Iterator[Package]:
        """Fetch a version's package and prove it as a predictor does; it is there while the block runs.

        Raises
        ------
        PackageError
            It is not whole, was altered, or is not signed with our key.
        """
        if self._key is not None:
            check_signature(version.flow, version.version, version.manifest_sha256, version.signature, key=self._key)
        with tempfile.TemporaryDirectory(prefix="modelflow-prove-") as scratch:
            directory = self.download(version, Path(scratch))
            yield verify_package(directory, expect_digest=version.manifest_sha256)

    def run_url(self, version: ModelVersion) -> str:
        """Return where a person sees the version's run, or its address where there is no server."""
        return self._shelf.run_url(version.mlflow_run_id)

    # -- what is done --------------------------------------------------------------------------------------------

    def publish(
        self,
        flow: str,
        package: Path,
        *,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        evaluation: Path,
    ) -> ModelVersion:
        """Upload a package and its evidence, then register them as a new version in stage None.

        Parameters
        ----------
        package, evaluation : Path
            Folders; see `ml_core.flow.package` and `ml_core.training.evaluation`.
        tags : mapping of str to str
            Tags of the version (DESIGN: kind, parent, watermark, trained_through, ...).
        metrics : mapping of str to float
            Logged with the run, and kept with the version.
        """
        if self._key is not None:
            tags = dict(tags) | {"manifest_hmac": sign(flow, file_digest(package / MANIFEST), self._key)}
        return described(upload(self._shelf, flow, package, tags=tags, metrics=metrics, evaluation=evaluation))

    def promote(
        self, flow: str, version: int, *, verdict: Verdict, expected_champion: int | None, who: str | None = None
    ) -> Entry:
        """Make an accepted version the champion: Staging, then Production; the champion before it is archived.

        The move into Production and the archiving are one transaction of the registry. Aliases follow. Called again for
        the version that is champion already, it returns the entry that made it so.

        Raises
        ------
        PromotionError
            The verdict refuses the version.
        HeadMovedError
            Another version became champion since the verdict.
        PackageError
            Its package is not whole any more.
        """
        if not verdict.accepted:
            raise PromotionError(f"{flow} version {version} was refused: {'; '.join(verdict.reasons)}")

        def decide(last: Entry, _: Standing) -> Entry | None:
            if last.champion == version:
                return None
            if last.champion != expected_champion:
                raise HeadMovedError(
                    f"{flow}: version {version} was judged against champion {expected_champion}, but the champion is"
                    f" {last.champion} now; judge it again"
                )
            why = f"{verdict.policy} on {verdict.rows} rows"
            return replace(self._champion(last, version), kind="promote", verdict=verdict, why=why)

        return self._move(flow, version, decide, who)

    def force_promote(self, flow: str, version: int, *, reason: str, who: str | None = None) -> Entry:
        """Make a version the champion past the gate, never past its verification; `reason` is recorded."""
        if not reason.strip():
            raise PromotionError(f"{flow}: promoting version {version} past the gate needs a reason")

        def decide(last: Entry, _: Standing) -> Entry | None:
            if last.champion == version:
                return None
            return replace(self._champion(last, version), kind="promote", forced=True, why=reason)

        return self._move(flow, version, decide, who)

    def refuse(self, flow: str, version: int, *, verdict: Verdict) -> Entry:
        """Store the verdict with a refused version and archive it; its examples are the next child's to learn."""

        def decide(last: Entry, _: Standing) -> Entry:
            if last.champion == version:
                raise HeadMovedError(
                    f"{flow}: version {version} was refused, but it is champion now; roll back instead"
                )
            why = "; ".join(verdict.reasons)
            challenger = None if last.challenger == version else last.challenger
            return replace(
                self._same(last), kind="refuse", version=version, challenger=challenger, verdict=verdict, why=why
            )

        return self._operate(flow, decide)

    def rollback(
        self, flow: str, *, why: str, to: int | None = None, resume_at: int | None = None, who: str | None = None
    ) -> Entry:
        """Make an earlier champion the champion again; the next increment continues from its state.

        Parameters
        ----------
        why : str
            Recorded in the ledger.
        to : int, optional
            A version that has served before; by default the one the champion replaced.
        resume_at : int, optional
            Where its next increment starts to learn: the examples between its watermark and this offset are skipped. By
            default none are: they are learned again.

        Raises
        ------
        PromotionError
            There is nothing to roll back to, the version never served, or `resume_at` lies before its watermark.
        VersionNotFoundError
            Retention has deleted it.
        PackageError
            Its package is not whole any more.
        """
        target = to if to is not None else self._settled(flow)[0].previous
        if target is None:
            raise PromotionError(
                f"{flow}: nothing to roll back to: no version served before this one; name one, --to N"
            )
        version = self.version(flow, target)
        accepted = version.verdict is not None and version.verdict.accepted
        if not accepted and not self.ledger.served(flow, target):
            raise PromotionError(f"{flow}: version {target} never served; promote it, with --force if the gate refuses")
        if resume_at is not None and resume_at < version.watermark:
            raise PromotionError(
                f"{flow}: version {target} has learned the examples below {version.watermark}; it cannot resume at"
                f" {resume_at}"
            )

        def decide(last: Entry, _: Standing) -> Entry | None:
            if last.champion == target and resume_at == version.resume_at:
                return None
            if to is None and last.previous != target:
                raise HeadMovedError(f"{flow}: another transition came first; look at `modelflow history {flow}`")
            wanted = self._champion(last, target)
            previous = self.ledger.became(flow, target, by_rollback=False).before
            if previous == target or (previous is not None and self._shelf.find(flow, previous) is None):
                previous = None
            details = {"resume_at": resume_at}
            return replace(wanted, kind="rollback", previous=previous, why=why, details=details)

        return self._move(flow, target, decide, who)

    def pin(self, flow: str, version: int, *, why: str, who: str | None = None) -> Entry:
        """Keep a version from retention; an empty `why` lets it go again."""
        kind = "pin" if why else "unpin"
        self.version(flow, version)
        return self._operate(flow, lambda last, _: replace(self._same(last), kind=kind, version=version, why=why), who)

    def delete(self, flow: str, versions: Sequence[ModelVersion], *, why: str, who: str | None = None) -> Entry:
        """Delete versions with their artifacts and runs; raise PromotionError when one of them stands somewhere."""
        doomed = [[version.version, version.mlflow_run_id] for version in versions]

        def decide(last: Entry, seen: Standing) -> Entry:
            standing = {last.champion, last.challenger, last.previous, *seen.production, *seen.staging}
            if kept := sorted({version.version for version in versions} & (standing - {None})):
                raise PromotionError(f"{flow}: versions {kept} stand in a stage or under an alias; nothing was deleted")
            return replace(self._same(last), kind="delete", why=why, details={"versions": doomed})

        return self._operate(flow, decide, who)

    def reconcile(self, flow: str) -> list[str]:
        """Finish what was interrupted and complete what people moved; return what was done, one sentence each."""
        done = finish_interrupted(self._shelf, flow, now=self._clock.now())
        before = self.ledger.newest(flow)
        self._operate(flow, lambda *_: None)
        made = [entry for entry in self.ledger.entries(flow, limit=10) if entry.number > before.number]
        if before.open:
            made.insert(0, before)
        return done + [f"{entry.kind} of version {entry.version} by {entry.who}: {entry.why}" for entry in made]

    # -- the one operation ---------------------------------------------------------------------------------------

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


def registry_of(project: Project) -> Registry:
    """Return the registry of a project, with its ledger, its artifacts' place and its key."""
    return Registry(
        project.tracking_uri,
        ledger_uri=project.ledger_uri,
        artifacts=(project.home / "mlflow" / "artifacts").as_uri(),
        signing_key=project.signing_key,
    )
