"""The pool's invariants (see `world.py`), whatever happens in whatever order. `campaign.py` runs them for longer."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.unit.pool import campaign
from tests.unit.pool.scripted import NEVER, Refused
from tests.unit.pool.world import World

which = st.integers(0, 63)
callbacks = st.sampled_from(("ping", "restore", "close", "is_closed", "is_clean", "terminate"))


class PoolMachine(RuleBasedStateMachine):
    """`World`'s operations as hypothesis wants them, so that what breaks is shrunk to a few steps."""

    world: World | None = None

    @initialize(seed=st.integers(0, 99), max_waiting=st.sampled_from((None, None, 0, 3)))
    def begin(self, seed: int, max_waiting: int | None) -> None:
        self.world = World(seed, max_waiting=max_waiting)

    @rule(limit=st.sampled_from((None, None, 0.0, 0.02, 0.5, 7.0)), mode=st.sampled_from(("", "read")))
    def ask(self, limit, mode):
        self.world.ask(limit, mode)

    @rule()
    def take(self):
        self.world.take()

    @rule(which=which)
    def give_up(self, which):
        self.world.give_up(which)

    @rule(which=which, clean=st.booleans(), changed=st.booleans(), mode=st.sampled_from(("", "read")))
    def give_back(self, which, clean, changed, mode):
        self.world.give_back(which, clean=clean, changed=changed, mode=mode)

    @rule(which=which, other=which)
    def give_back_as_one_gives_up(self, which, other):
        self.world.give_back(which)
        self.world.give_up(other)
        self.world.give_back(which + 1)

    @rule(which=which)
    def give_back_twice(self, which):
        self.world.give_back_twice(which)

    @rule(which=which)
    def keep(self, which):
        self.world.keep(which)

    @rule(which=which)
    def die(self, which):
        self.world.die(which)

    @rule()
    def restart(self):
        self.world.restart()

    @rule(which=which, callback=callbacks, hangs=st.booleans())
    def trouble(self, which, callback, hangs):
        self.world.trouble(which, callback, hangs=hangs and callback in ("ping", "restore", "close"))

    @rule(step=st.sampled_from((0.0, 0.2, 1.9, NEVER, Refused("no"))))
    def next_connect(self, step):
        self.world.next_connect(step)

    @rule(up=st.booleans(), final=st.booleans())
    def server(self, up, final):
        self.world.server(up=up, final=final)

    @rule(least=st.integers(0, 2), most=st.integers(1, 6))
    def resize(self, least, most):
        self.world.resize(least, most)

    @rule(what=st.sampled_from(("drain", "suspend", "resume", "resume", "doubt")))
    def operate(self, what):
        self.world.operate(what)

    @rule(seconds=st.sampled_from((0.0, 0.001, 0.01, 0.05, 0.3, 0.6, 1.1, 3.0, 20.0)))
    def advance(self, seconds):
        self.world.advance(seconds)

    @precondition(lambda self: self.world is not None)
    @invariant()
    def holds(self):
        self.world.check()

    def teardown(self):
        if self.world is not None:
            self.world.stop(2.0, [0.1, 1.0])
            self.world.close()


@pytest.fixture
def quiet() -> Iterator[None]:
    """The pool warns of what the model does to it, thousands of times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
def test_every_invariant_holds_whatever_callers_connections_and_operators_do():
    limits = settings(
        max_examples=60,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(PoolMachine, settings=limits)


@pytest.mark.usefixtures("quiet")
def test_every_invariant_holds_through_ten_thousand_random_operations():
    assert campaign.run(10_000, seed=27) == 10_000 / campaign.LIFE
