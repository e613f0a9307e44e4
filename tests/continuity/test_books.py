"""Books by any script of faults, held against the book that the exchange has."""

from hypothesis import strategies as st

from collector_trio.exchanges.protocol import BookRules

from .books import FUTURES, OKX, SPOT, Play, Player, Recorder, Truth
from .soak import tried

LENGTH = 40
CALM = 12  # changes at the end, when all goes well again
WHAT = [
    "next",
    "next",
    "next",
    "drop",
    "hold",
    "release",
    "again",
    "snapshot",
    "snapshot",
    "tick",
    "look",
    "end",
    "start",
    "spoil",
]
SCRIPTS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 2), st.integers(1, 4)), max_size=40)
LEGS = st.lists(st.integers(0, 3), min_size=1, max_size=3)
OVERLAPS = st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=LENGTH, max_size=LENGTH)
KINDS = st.lists(st.sampled_from(["next"] * 8 + ["reset", "torn"]), min_size=LENGTH - CALM, max_size=LENGTH - CALM)

Script = list[tuple[str, int, int]]


def play(truth: Truth, rules: BookRules, legs: list[int], script: Script, *, reloads: bool = False) -> Recorder:
    """Let sessions that begin where `legs` say bring the truth as `script` says, then let all go well."""
    recorder = Recorder(truth, rules, reloads=reloads)
    play = Play(recorder, [Player(session, at) for session, at in enumerate(legs, 1)])
    for what, who, number in script:
        if max(player.at for player in play.players) < LENGTH - CALM:
            play.step(what, who, number)
    play.heal()
    recorder.fold.process_stopped()
    recorder.check_ledger()
    first = min(recorder.accepted, default=0)
    unnamed = {index for index in recorder.doubted if index > first} - set(recorder.missing())
    covered = {value for index in recorder.accepted for value in truth.changes[index].sets}
    assert all(index in recorder.accepted or covered.issuperset(truth.changes[index].sets) for index in unnamed)
    return recorder


@tried(120, OVERLAPS, LEGS, SCRIPTS)
def test_a_synced_spot_book_is_the_exchanges_whatever_happens(
    overlaps: list[int], legs: list[int], script: Script
) -> None:
    play(Truth.spot(overlaps), SPOT, legs, script)


@tried(80, LEGS, SCRIPTS)
def test_a_synced_futures_book_is_the_exchanges_whatever_happens(legs: list[int], script: Script) -> None:
    play(Truth.futures(LENGTH), FUTURES, legs, script)


@tried(150, KINDS, LEGS, SCRIPTS)
def test_a_synced_book_with_snapshots_on_the_socket_is_the_exchanges_whatever_happens(
    kinds: list[str], legs: list[int], script: Script
) -> None:
    play(Truth.okx([*kinds, *["next"] * CALM]), OKX, legs, script)


@tried(40, KINDS, LEGS, SCRIPTS, st.sampled_from(["spot", "futures", "okx"]))
def test_who_goes_on_from_a_dump_says_the_same_as_who_never_stopped(
    kinds: list[str], legs: list[int], script: Script, which: str
) -> None:
    truth, rules = {
        "spot": (Truth.spot([len(kind) % 3 for kind in kinds] + [0] * CALM), SPOT),
        "futures": (Truth.futures(LENGTH), FUTURES),
        "okx": (Truth.okx([*kinds, *["next"] * CALM]), OKX),
    }[which]
    stayed, went = play(truth, rules, legs, script), play(truth, rules, legs, script, reloads=True)
    assert went.verdicts == stayed.verdicts
    assert went.rows == stayed.rows
    assert went.levels == stayed.levels
    assert went.fold.books == stayed.fold.books


@tried(
    80,
    st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 3)), max_size=50),
    st.sampled_from([SPOT, FUTURES, OKX]),
)
def test_beside_a_session_that_brings_everything_another_one_can_do_no_harm(
    steps: list[tuple[str, int]], rules: BookRules
) -> None:
    """Session 1 is never more than four changes behind; session 2 does what it likes, and may end and come again."""
    truths = {
        SPOT: Truth.spot([0] * LENGTH),
        FUTURES: Truth.futures(LENGTH),
        OKX: Truth.okx(["next"] * 20 + ["reset"] * 20),
    }
    recorder = Recorder(truths[rules], rules)
    steady, wild = Player(1, 4), Player(2, 4)
    play = Play(recorder, [wild, steady])
    if rules.in_band:
        recorder.take_whole(1, 4)
    else:
        recorder.take(1, recorder.truth.changes[3])
        recorder.take_snapshot(recorder.truth.changes[3].last)
    for what, number in steps:
        if wild.at < LENGTH - CALM and what not in ("tick", "start", "spoil"):
            play.step(what, 0, number)
        play.step("next", 1, max(1 if number else 0, wild.at - steady.at - 4))
        assert recorder.look() == []
    play.step("next", 1, LENGTH)
    assert recorder.look() == []
    assert recorder.accepted >= set(range(4, LENGTH))
    assert recorder.chain.synced
