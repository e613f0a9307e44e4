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


@pytest.mark.parametrize("n", [0, -1, 3.5, float("nan")])
async def test_what_never_fits_is_a_bug(n: float) -> None:
    with pytest.raises(ValueError, match="asked of a budget of 3 per 10 s"):
        await Budget(Rate(3, 10)).take(n)


async def test_the_same_name_shares_a_budget_and_a_new_rate_holds_for_all() -> None:
    budgets = Budgets()
    budget = budgets.get("binance.spot", Rate(3, 10))
    assert budgets.get("binance.spot", Rate(2, 10)) is budget
    assert budget.rate == Rate(2, 10)
    assert budgets.get("okx.public", Rate(3, 10)) is not budget


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 5)), max_size=30), st.integers(5, 9), st.integers(1, 20))
def test_no_window_ever_holds_more_than_the_limit(asked: list[tuple[int, int]], limit: int, period: int) -> None:
    granted: list[tuple[float, int]] = []

    async def main() -> None:
        budget = Budget(Rate(limit, period))
        async with trio.open_nursery() as nursery:
            for pause, n in asked:
                await trio.sleep(pause / 10)
                nursery.start_soon(take, budget, n)

    async def take(budget: Budget, n: int) -> None:
        await budget.take(n)
        granted.append((trio.current_time(), n))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(granted) == len(asked)
    for start, _ in granted:
        assert sum(n for when, n in granted if start <= when < start + period) <= limit
