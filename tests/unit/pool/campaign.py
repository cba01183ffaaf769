"""The pool under random operations: `python -m tests.unit.pool.campaign --operations 100000 --seed 7`.

Each world lives for a few hundred operations and is stopped; after each operation every invariant is looked at. A
broken one is reported with the world's seed, and `--world` plays that one again.
"""

import argparse
import logging
import random
import time
from collections.abc import Callable

from tests.unit.pool.scripted import NEVER, Refused
from tests.unit.pool.world import World

LIFE = 400
"""Operations in one world."""


def acts(world: World, dice: random.Random) -> list[tuple[int, Callable[[], None]]]:
    """All that can happen, each with its weight; `dice` chooses the details."""
    which = dice.randrange(64)
    callback = dice.choice(("ping", "restore", "close", "is_closed", "is_clean", "terminate"))
    return [
        (26, lambda: world.ask(dice.choice((None, None, None, 0.0, 0.02, 0.5, 7.0)), dice.choice(("", "", "read")))),
        (6, world.take),
        (8, lambda: world.give_up(which)),
        (30, lambda: world.give_back(which, mode=dice.choice(("", "", "read")))),
        (4, lambda: world.give_back(which, clean=False)),
        (4, lambda: world.give_back(which, changed=True)),
        (1, lambda: world.give_back_twice(which)),
        (1, lambda: world.keep(which)),
        (4, lambda: world.die(which)),
        (1, world.restart),
        (2, lambda: world.trouble(which, callback, hangs=False)),
        (2, lambda: world.trouble(which, dice.choice(("ping", "restore", "close")), hangs=True)),
        (2, lambda: world.next_connect(dice.choice((0.0, 0.2, 1.9, NEVER, Refused("no"))))),
        (1, lambda: world.server(up=False, final=dice.random() < 0.3)),
        (8, lambda: world.server(up=True)),
        (1, lambda: world.server_codes(broken=dice.random() < 0.3)),
        (1, lambda: world.resize(dice.randrange(3), dice.randrange(1, 7))),
        (1, lambda: world.operate("drain")),
        (1, lambda: world.operate("suspend")),
        (10, lambda: world.operate("resume")),
        (1, lambda: world.operate("doubt")),
        (18, world.settle),
        (14, lambda: world.advance(dice.choice((0.0, 0.001, 0.01, 0.01, 0.05, 0.3, 0.6, 1.1, 3.0)))),
        (1, lambda: world.advance(dice.choice((10.0, 20.0, 45.0)))),
    ]


def live(seed: int, operations: int) -> None:
    """Play one world from its seed, and stop it."""
    dice = random.Random(seed)  # noqa: S311 - so that it can be played again
    world = World(seed, max_waiting=dice.choice((None, None, 3)))
    try:
        for _ in range(operations):
            choice = acts(world, dice)
            dice.choices([act for _, act in choice], [weight for weight, _ in choice])[0]()
            world.check()
        world.stop(dice.choice((0.0, 0.5, 4.0, 10.0)), [dice.random() * 4 for _ in range(dice.randrange(6))])
    except BaseException as error:
        error.add_note(f"play it again: python -m tests.unit.pool.campaign --world {seed} --operations {operations}")
        raise
    finally:
        world.close()


def run(operations: int, seed: int) -> int:
    """Play worlds until that many operations are done; give how many worlds those were."""
    worlds = 0
    while operations > 0:
        live(seed * 1_000_003 + worlds, min(LIFE, operations))
        operations -= LIFE
        worlds += 1
    return worlds


def main() -> None:
    """Read the arguments, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--world", type=int, help="one world alone, by its own seed")
    given = parser.parse_args()
    logging.disable()
    if given.world is not None:
        live(given.world, min(LIFE, given.operations))
        print(f"world {given.world}: no invariant broken")
        return
    print(f"seed {given.seed}", flush=True)
    began = time.perf_counter()
    worlds = run(given.operations, given.seed)
    took = time.perf_counter() - began
    print(f"{given.operations} operations in {worlds} worlds, no invariant broken, {took:.1f} s")


if __name__ == "__main__":
    main()
