"""`boxwood predict` on several processes: which inputs each one takes, and how their journals become one.

Rank 0 writes the journal of the call, each other rank one beside it. All of them need the same file system.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from boxwood.inference.journal import Journal, whole_lines
from boxwood.inference.sources import is_video

__all__ = ["absorb", "blocks_of_rank", "shard_path"]


def blocks_of_rank(files: Sequence[Path], batch: int, started: set[str], rank: int, ranks: int) -> Iterator[list[Path]]:
    """The inputs of one rank: batches of pictures as one process forms them, and single videos; ``started`` ones go to rank 0."""
    blocks: list[list[Path]] = []
    for videos, group in itertools.groupby(files, is_video):
        members, size = list(group), 1 if videos else batch
        blocks += [members[first : first + size] for first in range(0, len(members), size)]
    for place, block in enumerate(blocks):
        if rank == (0 if str(block[0]) in started else place % ranks):
            yield block


def shard_path(journal: Path, rank: int) -> Path:
    """The journal of a rank; that of rank 0 is ``journal``."""
    return journal if rank == 0 else journal.with_name(f"{journal.stem}.rank{rank}{journal.suffix}")


def absorb(path: Path, about: dict[str, Any]) -> None:
    """Move the lines of the other ranks' journals to the journal ``path``; after a kill it can be repeated.

    Raises `UserError` where a journal belongs to another call.
    """
    shards = sorted(path.parent.glob(f"{path.stem}.rank*{path.suffix}"))
    if not shards:
        return
    with closing(Journal(path, about)) as journal:
        for shard in shards:
            Journal(shard, about).close()  # compares what it is about, and cuts off an incomplete line
            for start, _, line in whole_lines(shard):
                name = line.get("file_name")
                if (
                    start > 0
                    and name not in journal.done
                    and line.get("frame", journal.frames.get(name, 0)) >= journal.frames.get(name, 0)
                ):
                    journal.add(line)
            shard.unlink()
