"""The registry as a flow: publish, promote, refuse, roll back, pin, delete.

MLflow's stages are the truth (None, Staging, Production, Archived); the aliases `challenger`, `champion` and
`previous` follow them through one operation (`ml_core.flow.transitions`). Nothing is moved into Production that was not
verified a moment before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ml_core.errors import HeadMovedError, PromotionError
from ml_core.flow.ledger import Entry
from ml_core.flow.package import MANIFEST, file_digest
from ml_core.flow.shelf import Standing
from ml_core.flow.signing import sign
from ml_core.flow.transitions import Transitions
from ml_core.flow.upload import finish_interrupted, upload
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.flow.versions import described
from ml_core.project import Project


class Registry(Transitions):
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

    def describe(self, version: ModelVersion, text: str, files: Mapping[str, str]) -> None:
        """Show `text` as a version's description, and keep text `files` by name in the folder `card` of its run."""
        self._shelf.describe(version.flow, version.version, version.mlflow_run_id, text, files)

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
        self,
        flow: str,
        *,
        why: str,
        to: int | None = None,
        resume_at: int | None = None,
        expected_champion: int | None = None,
        who: str | None = None,
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
        expected_champion : int, optional
            Roll back only while this version is champion.

        Raises
        ------
        HeadMovedError
            Another version became champion first.
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
            if (to is None and last.previous != target) or expected_champion not in {None, last.champion}:
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


def registry_of(project: Project) -> Registry:
    """Return the registry of a project, with its ledger, its artifacts' place and its key."""
    return Registry(
        project.tracking_uri,
        ledger_uri=project.ledger_uri,
        artifacts=(project.home / "mlflow" / "artifacts").as_uri(),
        signing_key=project.signing_key,
    )
