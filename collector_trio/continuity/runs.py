"""Many ids at once: where the ids of every instrument go up one by one, a look at the first and last says it all."""

from collections.abc import Sequence

import attrs


@attrs.frozen
class Run:
    """Ids of one instrument that go up one by one: the first, and at which position of the many the last one stands."""

    first: int
    last_at: int


def runs(native_symbols: Sequence[str], ids: Sequence[int]) -> dict[str, Run | None]:
    """Return the run of each instrument, by native symbol; None where its ids do not go up one by one.

    `native_symbols[n]` is whose id `ids[n]` is; there is at least one.
    """
    if native_symbols.count(native_symbols[0]) == len(ids):
        goes_up = ids == list(range(ids[0], ids[0] + len(ids)))
        return {native_symbols[0]: Run(ids[0], len(ids) - 1) if goes_up else None}
    return _chained(native_symbols, ids, [number + 1 for number in ids])


def chains(native_symbols: Sequence[str], prev_seqs: Sequence[int], last_seqs: Sequence[int]) -> dict[str, Run | None]:
    """Return the run of each instrument whose book's changes each lead on from where the one before it ended.

    `first` is the number that the first one leads on from. None where one does not; there is at least one change.
    """
    if native_symbols.count(native_symbols[0]) == len(native_symbols):
        leads_on = prev_seqs[1:] == last_seqs[:-1]
        return {native_symbols[0]: Run(prev_seqs[0], len(native_symbols) - 1) if leads_on else None}
    return _chained(native_symbols, prev_seqs, last_seqs)


def _chained(native_symbols: Sequence[str], before: Sequence[int], after: Sequence[int]) -> dict[str, Run | None]:
    first: dict[str, int] = {}
    tip: dict[str, int] = {}
    last_at: dict[str, int] = {}
    broken: set[str] = set()
    for n, (native, start, end) in enumerate(zip(native_symbols, before, after, strict=True)):
        if tip.get(native) != start:
            if native in first:
                broken.add(native)
            else:
                first[native] = start
        tip[native], last_at[native] = end, n
    return {native: None if native in broken else Run(start, last_at[native]) for native, start in first.items()}
