"""Receive times: they follow the wall clock forwards, and never go back."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from collector_trio.clock import STEP_NS, Clock

HOUR_NS = 3_600_000_000_000


@attrs.define
class Machine:
    """Both clocks of a computer."""

    wall: int = 1_795_000_000_000_000_000
    monotonic: int = 5_000

    def pass_ns(self, ns: int) -> None:
        self.wall += ns
        self.monotonic += ns

    def step(self, ns: int) -> None:
        """Set the wall clock, as NTP or an operator does."""
        self.wall += ns

    def clock(self) -> Clock:
        return Clock(wall_ns=lambda: self.wall, monotonic_ns=lambda: self.monotonic)


def test_it_shows_the_wall_clocks_time() -> None:
    machine = Machine()
    clock = machine.clock()

    assert clock.now() == machine.wall
    machine.pass_ns(HOUR_NS)
    assert clock.now() == machine.wall
    assert clock.check_step() == 0


def test_between_two_checks_a_step_changes_nothing() -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.now()

    machine.step(HOUR_NS)
    assert clock.now() == before
    machine.step(-2 * HOUR_NS)
    assert clock.now() == before


def test_a_step_forwards_is_followed_and_reported_once() -> None:
    machine = Machine()
    clock = machine.clock()

    machine.step(HOUR_NS)

    assert clock.check_step() == HOUR_NS
    assert clock.now() == machine.wall
    assert clock.check_step() == 0


def test_a_step_back_is_reported_once_and_not_followed() -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.now()

    machine.step(-HOUR_NS)

    assert clock.check_step() == -HOUR_NS
    assert clock.now() == before
    machine.pass_ns(10)
    assert clock.check_step() == 0
    assert clock.now() == before + 10


def test_a_wall_clock_that_was_set_back_and_forth_again_is_agreed_with() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.step(-HOUR_NS)
    clock.check_step()

    machine.step(HOUR_NS)

    assert clock.check_step() == HOUR_NS
    assert clock.now() == machine.wall
    assert clock.check_step() == 0


def test_a_step_back_and_a_larger_one_forth_is_followed_as_far_as_it_is_ahead() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.step(-HOUR_NS)
    clock.check_step()

    machine.step(3 * HOUR_NS)

    assert clock.check_step() == 3 * HOUR_NS
    assert clock.now() == machine.wall
    machine.step(-HOUR_NS)
    assert clock.check_step() == -HOUR_NS
    machine.step(-HOUR_NS)
    assert clock.check_step() == -HOUR_NS


def test_a_difference_too_small_to_be_a_step_is_let_be() -> None:
    for difference in (STEP_NS - 1, 1 - STEP_NS):
        machine = Machine()
        clock = machine.clock()
        before = clock.now()

        machine.step(difference)

        assert clock.check_step() == 0
        assert clock.now() == before


def test_a_difference_just_large_enough_is_a_step() -> None:
    for difference in (STEP_NS, -STEP_NS):
        machine = Machine()
        clock = machine.clock()

        machine.step(difference)

        assert clock.check_step() == difference


EVENTS = st.lists(
    st.tuples(st.just("pass"), st.integers(0, HOUR_NS))
    | st.tuples(st.just("step"), st.integers(-HOUR_NS, HOUR_NS))
    | st.tuples(st.just("check"), st.just(0))
)


@given(EVENTS)
def test_it_never_goes_back_and_after_a_check_is_never_behind_by_a_step(events: list[tuple[str, int]]) -> None:
    machine = Machine()
    clock = machine.clock()
    last = clock.now()
    for event, ns in events:
        if event == "pass":
            machine.pass_ns(ns)
        elif event == "step":
            machine.step(ns)
        else:
            step = clock.check_step()
            assert step == 0 or abs(step) >= STEP_NS
            assert machine.wall - clock.now() < STEP_NS

        assert clock.now() >= last
        last = clock.now()


def test_it_reads_the_machines_own_clocks_where_none_are_given() -> None:
    clock = Clock()

    assert 0 <= clock.now() - clock.wall_ns() + 60_000_000_000 < 120_000_000_000
    assert clock.now() <= clock.now()
