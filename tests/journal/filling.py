"""Run as a process: fill a disk with a journal, make room, go on; print what happened as JSON.

`python -m tests.journal.filling DIR ballast`: DIR is a small file system; room is made by removing a file.
`python -m tests.journal.filling DIR limit`: files may not grow beyond a limit; room is made by raising it.
"""

import json
import resource
import sys
from pathlib import Path

import trio

from collector_trio.journal.append import Journal, in_thread, open_journal
from collector_trio.journal.records import Damage, Letter
from collector_trio.journal.recover import lock_data_dir, recover

from .writing import HandClock, everything, notes, numbered

LIMIT = 100_000


async def main(data_dir: Path, how: str) -> None:
    clock, accepted, refused = HandClock(), [], 0
    ballast = data_dir / "ballast"
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    else:
        ballast.write_bytes(b"x" * 200_000)
    with (
        lock_data_dir(data_dir),
        open_journal(
            data_dir,
            recover(data_dir).numbers,
            clock=clock,
            segment_s=3600,
            sync_every_s=0.01,
            offload=in_thread(trio.CapacityLimiter(1)),
        ) as journal,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            for number in range(1, 3_000):
                frame = b"%d " % number + b"x" * (number * 37 % 800)
                while not journal.append(1, clock(), [frame]):
                    refused += 1
                    journal.note(Letter.SUBSCRIBE, {"meanwhile": number})
                    check_whole(journal, data_dir)
                    make_room(how, ballast)
                    await journal.room()
                accepted.append(number)
                if refused and number > accepted[0] + refused + 400:
                    break
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    read = numbered(data_dir)
    document = {
        "accepted": accepted,
        "refused": refused,
        "numbers": [number for number, _ in read],
        "frames": [int(frame.split()[0]) for _, frame in read],
        "refusals": notes(data_dir, Letter.REFUSAL),
        "meanwhile": [value["meanwhile"] for value in notes(data_dir, Letter.SUBSCRIBE)],
        "damages": [str(record) for record in everything(data_dir) if isinstance(record, Damage)],
    }
    sys.stdout.write(json.dumps(document))


def check_whole(journal: Journal, data_dir: Path) -> None:
    assert journal.is_refusing
    assert not [record for record in everything(data_dir) if isinstance(record, Damage)]


def make_room(how: str, ballast: Path) -> None:
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        ballast.unlink(missing_ok=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
