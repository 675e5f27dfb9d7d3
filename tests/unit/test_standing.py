"""A burst is served whatever it takes; a queue in which calls wait for long takes no more."""

import pytest

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import TooManyCalls
from sessiond_server.rpc.places import Places
from sessiond_server.rpc.standing import LEAST_DELAY, MOST_DELAY, StandingQueue


@pytest.mark.parametrize("oldest", [0.0, 1.5, 30.0])
def test_burst_is_not_refused_however_long_it_waits(oldest: float) -> None:
    assert StandingQueue(burst=2048).refusal(2047, oldest) is None


@pytest.mark.parametrize("waiting", [2048, 100_000])
def test_queue_that_moves_is_not_refused_however_long_it_is(waiting: int) -> None:
    assert StandingQueue(burst=2048, target=1.0).refusal(waiting, 1.0) is None


@pytest.mark.parametrize(
    ("oldest", "delay"), [(1.01, 1.0), (1.6, 1.5), (4.4, 4.0), (60.0, MOST_DELAY), (0.3, LEAST_DELAY)]
)
def test_standing_queue_is_refused_for_about_as_long_as_it_is(oldest: float, delay: float) -> None:
    assert StandingQueue(burst=2048, target=0.2).refusal(2048, oldest) == delay


async def test_places_refuse_what_would_join_a_standing_queue() -> None:
    places = Places(1, waiting=Shares(100), standing=StandingQueue(burst=0, target=-1.0))
    await places.take("a")
    first = places.take("a")
    first.send(None)
    assert places.present == 2
    with pytest.raises(TooManyCalls) as refused:
        await places.take("a")
    assert refused.value.retry_after == LEAST_DELAY
    other = places.take("b")
    other.send(None)
    assert places.present == 3, "the queue of another tenant does not stand"
    first.close()
    other.close()
    assert places.present == 1
