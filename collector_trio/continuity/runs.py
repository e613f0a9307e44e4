"""Many ids at once: where the ids of every instrument go up one by one, a look at the first and last says it all."""

from collections.abc import Sequence

import attrs


@attrs.frozen
class Run:
    """Ids of one instrument that go up one by one: the first, and at which position of the many the last one stands."""

    first: int
    last_at: int


def chains(native_symbols: Sequence[str], prev_seqs: Sequence[int], last_seqs: Sequence[int]) -> dict[str, Run] | None:
    """Return the run of each instrument whose book's changes each lead on from where the one before it ended.

    `first` is the number that the first one leads on from. None where one does not; there is at least one.
    """
    if native_symbols.count(native_symbols[0]) == len(native_symbols):
        leads_on = prev_seqs[1:] == last_seqs[:-1]
        return {native_symbols[0]: Run(prev_seqs[0], len(native_symbols) - 1)} if leads_on else None
    first: dict[str, int] = {}
    tip: dict[str, int] = {}
    last_at: dict[str, int] = {}
    for n, (native, prev, last) in enumerate(zip(native_symbols, prev_seqs, last_seqs, strict=True)):
        if tip.get(native) != prev:
            if native in first:
                return None
            first[native] = prev
        tip[native], last_at[native] = last, n
    return {native: Run(number, last_at[native]) for native, number in first.items()}


def runs(native_symbols: Sequence[str], ids: Sequence[int]) -> dict[str, Run] | None:
    """Return the run of each instrument, by native symbol; None where one's ids do not go up one by one.

    `native_symbols[n]` is whose id `ids[n]` is; there is at least one.
    """
    if native_symbols.count(native_symbols[0]) == len(ids):
        goes_up = ids == list(range(ids[0], ids[0] + len(ids)))
        return {native_symbols[0]: Run(ids[0], len(ids) - 1)} if goes_up else None
    first: dict[str, int] = {}
    next_id: dict[str, int] = {}
    last_at: dict[str, int] = {}
    for n, (native, number) in enumerate(zip(native_symbols, ids, strict=True)):
        if next_id.get(native) != number:
            if native in first:
                return None
            first[native] = number
        next_id[native], last_at[native] = number + 1, n
    return {native: Run(number, last_at[native]) for native, number in first.items()}
