import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from collector_trio.net.budgets import Budget, Budgets
from collector_trio.plan import Rate


async def test_a_full_budget_makes_the_next_wait_until_the_first_is_a_period_old(
    autojump_clock: trio.testing.MockClock,
) -> None:
    budget = Budget(Rate(3, 10))
    waited = [await budget.take(), await budget.take()]
    await trio.sleep(4)
    waited += [await budget.take(), await budget.take(), await budget.take(), await budget.take()]
    assert waited == [0, 0, 0, 6, 0, 4]
    assert trio.current_time() == 14


async def test_a_large_request_waits_for_as_much_as_it_needs(autojump_clock: trio.testing.MockClock) -> None:
    budget = Budget(Rate(10, 60))
    await budget.take(6)
    await trio.sleep(1)
    await budget.take(4)
    assert budget.used() == 10
    assert await budget.take(7) == 60
    assert budget.used() == 7


async def test_those_who_wait_are_served_in_the_order_they_came(autojump_clock: trio.testing.MockClock) -> None:
    budget = Budget(Rate(2, 10))
    served: list[tuple[str, float]] = []

    async def take(name: str, n: float) -> None:
        await budget.take(n)
        served.append((name, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for name, n in [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 2)]:
            nursery.start_soon(take, name, n)
            await trio.testing.wait_all_tasks_blocked()
    assert served == [("a", 0), ("b", 10), ("c", 20), ("d", 20), ("e", 30)]


async def test_who_is_cancelled_while_waiting_has_taken_nothing_and_holds_nobody_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    budget = Budget(Rate(1, 10))
    await budget.take()
    with trio.move_on_after(5):
        await budget.take()
    assert budget.used() == 1
    assert await budget.take() == 5


async def test_what_is_in_flight_counts_until_a_period_after_it_has_arrived(
    autojump_clock: trio.testing.MockClock,
) -> None:
    budget = Budget(Rate(2, 10))
    hanging = await budget.begin()
    await budget.take()
    assert await budget.take() == 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.take)  # 20: the hanging one still counts
        await trio.sleep(15)
        assert budget.used() == 2
        hanging.end()
        hanging.end()
    assert await budget.take() == 5
    assert trio.current_time() == 30
    assert await budget.take() == 5  # the one that hung arrived at 25


async def test_what_was_not_asked_is_given_back_and_the_next_goes_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    budget = Budget(Rate(1, 10))
    grant = await budget.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.take)
        await trio.sleep(3)
        grant.give_back()
    assert trio.current_time() == 3


async def test_more_than_a_period_has_is_granted_alone_and_counts_for_as_many_periods(
    autojump_clock: trio.testing.MockClock,
) -> None:
    budget = Budget(Rate(4, 10))
    await budget.take(1)
    assert await budget.take(10) == 10
    assert await budget.take(1) == 25


async def test_a_budget_that_rests_grants_nothing_for_a_period(autojump_clock: trio.testing.MockClock) -> None:
    budget = Budget(Rate(4, 10))
    await budget.take(1)
    await trio.sleep(4)
    budget.rest()
    assert await budget.take(1) == 10


@pytest.mark.parametrize(("part", "rate"), [(1.0, Rate(2, 10)), (0.5, Rate(1, 10)), (0.25, Rate(1, 20))])
def test_parts_of_a_rate_never_amount_to_more_than_the_whole(part: float, rate: Rate) -> None:
    assert Rate(2, 10).share(part) == rate


@pytest.mark.parametrize("n", [0, -1, float("inf"), float("nan")])
async def test_what_is_no_number_of_units_is_a_bug(n: float) -> None:
    with pytest.raises(ValueError, match="asked of a budget of 3 per 10 s"):
        await Budget(Rate(3, 10)).take(n)


async def test_the_same_name_shares_a_budget_and_a_new_rate_holds_for_all() -> None:
    budgets = Budgets()
    budget = budgets.get("binance.spot", Rate(3, 10))
    assert budgets.get("binance.spot", Rate(2, 10)) is budget
    assert budget.rate == Rate(2, 10)
    assert budgets.get("okx.public", Rate(3, 10)) is not budget


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(1, 5), st.integers(0, 10), st.integers(0, 10)), max_size=30),
    st.integers(5, 9),
    st.integers(1, 20),
)
def test_no_window_ever_holds_more_than_the_limit_whenever_each_arrives(
    asked: list[tuple[int, int, int, int]], limit: int, period: int
) -> None:
    arrived: list[tuple[float, int]] = []

    async def main() -> None:
        budget = Budget(Rate(limit, period))
        async with trio.open_nursery() as nursery:
            for pause, n, until_arrival, until_answer in asked:
                await trio.sleep(pause / 10)
                nursery.start_soon(ask, budget, n, until_arrival, until_answer)

    async def ask(budget: Budget, n: int, until_arrival: int, until_answer: int) -> None:
        grant = await budget.begin(n)
        await trio.sleep(until_arrival)
        arrived.append((trio.current_time(), n))
        await trio.sleep(until_answer)
        grant.end()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(arrived) == len(asked)
    for start, _ in arrived:
        assert sum(n for when, n in arrived if start <= when < start + period - 1e-9) <= limit
