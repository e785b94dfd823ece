"""The mode `mirror` in the course of a lane: what a batch leaves out, and who is taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from penstock.audiences import AudiencePart
from penstock.contract import JobSpec
from penstock.ledger import Ledger
from penstock.ledger.base import Connection
from penstock.ledger.closings import Closing
from penstock.ledger.deliveries import Claim
from penstock.ledger.mirrors import Mirror, Seen, stage
from services.runtime.verdicts import Fatal
from services.upload import sift
from services.upload.chunk import ROW
from services.upload.mirror import Difference, Removal, Unseen, changed_members, target_of

UNCHANGED = "unchanged since the last run"
_AT_A_TIME = 20_000
#: A dry run's figure.
FOUND_AGAIN = "identifiers_found_again"
NOT_MIRRORED = "a mirror keeps digests alone, and this row has none that identify"


def is_mirror(spec: JobSpec, lane: str) -> bool:
    destination = spec.lanes()[lane]
    return isinstance(destination, AudiencePart) and destination.mode == "mirror"


class BatchMirror:
    def __init__(self, ledger: Ledger, claim: Claim, members: pa.RecordBatch) -> None:
        batch, target = claim.batch, target_of(claim.spec, claim.batch.lane)
        found: Mirror | None
        if claim.spec.dry_run:
            found = ledger.mirrors.find(target)
        else:
            found = ledger.mirrors.take(batch.job_id, batch.lane, target)
            if found is None:
                raise Fatal(
                    "Another run of this job is mirroring to the same audience: wait for its end, "
                    "or cancel it."
                )
        self._batch = batch
        self._mirror = found
        # Whoever is suppressed, or has taken consent back, counts as one who has left.
        no = sift.suppressed(ledger, members)
        self._suppressed = members.column(ROW).filter(no) if no is not None else None
        there = members if no is None else members.filter(pc.invert(no))
        denied = sift.denied(there)
        self._denied = there.column(ROW).filter(denied)
        there = there.filter(pc.invert(denied))
        self._difference = Difference(ledger.mirrors, found, there, full=claim.spec.full)

    def unwanted(self) -> Iterator[tuple[Callable[[pa.RecordBatch], pa.BooleanArray], str]]:
        """Which rows are left out, and why."""
        if self._suppressed is not None:
            yield partial(_among, places=self._suppressed), sift.SUPPRESSED
        yield partial(_among, places=self._denied), sift.DENIED
        yield partial(_among, places=self._difference.not_mirrored), NOT_MIRRORED
        yield partial(_among, places=self._difference.unchanged), UNCHANGED

    @property
    def found_again(self) -> int:
        """Identifiers of the batch that the audience has."""
        return self._difference.found_again

    def staging(self, refused: Sequence[int], *, whole: bool) -> Callable[[Connection], None]:
        """What to write when the batch settles. `refused`: places the platform did not take.
        `whole`: the batch has all rows of its part of the source.
        """
        seen = self._difference.seen(refused)
        return partial(self._stage, seen=seen, whole=whole)

    def _stage(self, db: Connection, seen: Seen, *, whole: bool) -> None:
        stage(db, self._mirror.mirror_id, self._batch, seen, whole=whole)


def would_take_out(ledger: Ledger, closing: Closing) -> dict[str, int]:
    """For the outcome of a dry run. About, for two rows may share an identifier."""
    if not is_mirror(closing.spec, closing.lane):
        return {}
    mirror = ledger.mirrors.find(target_of(closing.spec, closing.lane))
    gone = mirror.entries - closing.figures.get(FOUND_AGAIN, 0)
    return {"identifiers_it_would_take_out": max(gone, 0)}


class LaneMirror:
    """The state that a lane's run holds, at its end."""

    def __init__(self, ledger: Ledger, closing: Closing, mirror: Mirror) -> None:
        self._mirrors = ledger.mirrors
        self._job_id = closing.job_id
        self._lane = closing.lane
        self._mirror = mirror
        self._unseen = Unseen(ledger.mirrors, mirror, closing.job_id, closing.lane)

    @property
    def entries(self) -> int:
        return self._mirror.entries

    def count_unseen(self) -> int:
        return self._unseen.count()

    def removals(self, rows: int, after: int) -> Iterator[Removal]:
        """Each is in doubt from here on, until `end`."""
        for removal in self._unseen.removals(rows, after):
            self._mirrors.doubt(self._job_id, self._mirror.mirror_id, removal.ords)
            yield removal

    def changed(self, after: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        for seq, packed in self._mirrors.changed(self._job_id, self._lane, after):
            yield seq, changed_members(packed)

    def doubt(self, seq: int) -> None:
        """Members of the batch may be out: they were not taken once more."""
        self._mirrors.doubt_batch(self._job_id, self._lane, seq)

    def end(self, *, well: bool, all_removed: bool) -> None:
        """`all_removed`: the platform refused no removal; those that it did refuse are in doubt and
        still there, so that the next run tries again.
        """
        if well and all_removed:
            # Not sooner: a platform that works by jobs may fail to take them out at the very end.
            for removal in self._unseen.removals(_AT_A_TIME):
                self._mirrors.removed(self._job_id, self._mirror.mirror_id, removal.ords)
        if well:
            while self._mirrors.promote(self._job_id, self._lane, self._mirror.mirror_id):
                pass
        self._mirrors.release(self._job_id, self._lane, self._mirror.mirror_id)


def lane_mirror(ledger: Ledger, closing: Closing) -> LaneMirror | None:
    """None where the lane is no mirror, or another run holds the state: then it sent nothing."""
    if not is_mirror(closing.spec, closing.lane):
        return None
    target = target_of(closing.spec, closing.lane)
    mirror = ledger.mirrors.take(closing.job_id, closing.lane, target)
    return None if mirror is None else LaneMirror(ledger, closing, mirror)


def _among(rows: pa.RecordBatch, places: pa.Array) -> pa.BooleanArray:
    return pc.is_in(rows.column(ROW), value_set=places)
