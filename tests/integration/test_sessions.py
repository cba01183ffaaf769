"""`session()` and `sync_session()` against a real server: what is kept, what is undone, what is left behind."""

import asyncio
import contextlib

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as AlchemyTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pulsepool import BlockedLoop, CommitUnknown, Database, DatabaseUnavailable, PoolClosed, PoolTimeout


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]


@pytest.fixture
async def db(pg_url):
    async with Database(pg_url, max_size=3, acquire_timeout=0.3) as database:
        async with database.async_engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield database
        assert database.async_engine.pool.checkedout() == 0, "a test left a connection behind"


async def notes(db: Database) -> list[str]:
    async with db.session() as s:
        return list(await s.scalars(text("select body from note order by id")))


async def backend_pid(s) -> int:
    return await s.scalar(text("select pg_backend_pid()"))


async def terminate(db: Database, pid: int) -> None:
    """End a backend from outside, and wait until it is gone."""
    async with db.session() as s:
        assert await s.scalar(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid})


async def waiting_in(db: Database, event: str) -> None:
    """Return once some backend of this database waits for `event`."""
    async with db.async_engine.connect() as c, asyncio.timeout(5):
        await c.execution_options(isolation_level="AUTOCOMMIT")  # in one transaction the view would never change
        while not await c.scalar(
            text("select count(*) from pg_stat_activity where wait_event = :e and datname = current_database()"),
            {"e": event},
        ):
            await asyncio.sleep(0.01)


async def test_a_session_commits_on_success_and_its_objects_stay_readable(db):
    async with db.session() as s:
        note = Note(body="kept")
        s.add(note)
    assert note.body == "kept"
    assert await notes(db) == ["kept"]


async def test_the_objects_of_a_sync_session_stay_readable_too(db):
    def work() -> Note:
        with db.sync_session() as s:
            note = Note(body="kept")
            s.add(note)
        return note

    note = await asyncio.to_thread(work)
    assert (note.body, await notes(db)) == ("kept", ["kept"])


async def test_a_session_rolls_back_on_any_error_which_passes_through(db):
    with pytest.raises(KeyError, match="mine"):
        async with db.session() as s:
            s.add(Note(body="undone"))
            await s.flush()
            raise KeyError("mine")
    assert await notes(db) == []


async def test_the_server_hears_nothing_before_the_first_statement(db):
    async with db.session() as s:
        assert db.async_engine.pool.checkedout() == 0
        await s.execute(text("select 1"))
        assert db.async_engine.pool.checkedout() == 1


async def test_a_cancelled_session_is_undone_and_its_connection_is_home(db):
    async def work() -> None:
        async with db.session() as s:
            await s.execute(text("insert into note (body) values ('undone')"))
            await s.execute(text("select pg_sleep(60)"))

    task = asyncio.create_task(work())
    await waiting_in(db, "PgSleep")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert db.async_engine.pool.checkedout() == 0
    assert await notes(db) == []


async def test_a_second_cancellation_during_the_undoing_leaves_no_connection_behind(db, monkeypatch):
    working, undoing = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with db.session() as s:
            await s.execute(text("insert into note (body) values ('undone')"))
            rollback = s.rollback

            async def slow_rollback() -> None:
                undoing.set()
                await asyncio.sleep(0.05)
                await rollback()

            monkeypatch.setattr(s, "rollback", slow_rollback)
            working.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await working.wait()
    task.cancel()
    await undoing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert db.async_engine.pool.checkedout() == 0
    assert await notes(db) == []


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_caller_cancelled_while_its_error_is_undone_ends_cancelled(db, monkeypatch, hangs):
    monkeypatch.setattr("pulsepool.sessions.CLEANUP", 0.1 if hangs else 5)
    undoing, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with db.session() as s:
            await s.execute(text("select 1"))

            async def slow_rollback() -> None:
                undoing.set()
                await go_on.wait()

            monkeypatch.setattr(s, "rollback", slow_rollback)
            raise KeyError("mine")

    task = asyncio.create_task(work())
    await undoing.wait()
    task.cancel()
    if not hangs:
        go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_undoing_that_takes_too_long_gives_the_connection_up(db, monkeypatch, caplog):
    monkeypatch.setattr("pulsepool.sessions.CLEANUP", 0.05)
    with pytest.raises(KeyError):
        async with db.session() as s:
            await s.execute(text("select 1"))
            monkeypatch.setattr(s, "rollback", asyncio.Event().wait)
            raise KeyError
    assert "its connection is given up" in caplog.text


async def test_undoing_that_fails_is_logged_and_hides_no_error(db, monkeypatch, caplog):
    async def broken() -> None:
        raise OSError("rollback failed")

    with pytest.raises(KeyError, match="mine"):
        async with db.session() as s:
            await s.execute(text("select 1"))
            monkeypatch.setattr(s, "rollback", broken)
            raise KeyError("mine")
    assert "undoing a transaction failed: OSError: rollback failed" in caplog.text


async def test_a_commit_that_a_deferred_constraint_refuses_raises_and_keeps_nothing(db):
    async with db.session() as s:
        await s.execute(text("alter table note add unique (body) deferrable initially deferred"))
    with pytest.raises(IntegrityError):
        async with db.session() as s:
            s.add_all([Note(body="twice"), Note(body="twice")])
    assert await notes(db) == []


async def test_a_connection_lost_in_a_transaction_is_unavailable_and_the_next_session_works(db):
    with pytest.raises(DatabaseUnavailable, match="lost inside a transaction"):
        async with db.session() as s:
            await terminate(db, await backend_pid(s))
            await s.execute(text("select 1"))
    assert await notes(db) == []


async def test_a_connection_lost_before_commit_was_sent_is_unavailable_and_not_unknown(db):
    with pytest.raises(DatabaseUnavailable):
        async with db.session() as s:
            s.add(Note(body="undone"))
            await s.flush()
            connection = (await (await s.connection()).get_raw_connection()).driver_connection
            await terminate(db, await backend_pid(s))
            async with asyncio.timeout(5):
                while not connection.is_closed():
                    await asyncio.sleep(0.005)
    assert await notes(db) == []


@pytest.fixture
async def napping_commits(db):
    """Each commit of a new note takes a minute."""
    async with db.session() as s:
        await s.execute(
            text(
                "create function nap() returns trigger language plpgsql as "
                "$$ begin perform pg_sleep(60); return new; end $$"
            )
        )
        await s.execute(
            text(
                "create constraint trigger nap after insert on note "
                "deferrable initially deferred for each row execute function nap()"
            )
        )


@pytest.mark.usefixtures("napping_commits")
async def test_a_connection_lost_while_commit_was_under_way_is_unknown(db):
    pids: list[int] = []

    async def work() -> None:
        async with db.session() as s:
            pids.append(await backend_pid(s))
            s.add(Note(body="who knows"))

    task = asyncio.create_task(work())
    await waiting_in(db, "PgSleep")
    await terminate(db, pids[0])
    with pytest.raises(CommitUnknown, match="may or may not"):
        await task


@pytest.mark.parametrize("in_commit", [True, False])
async def test_a_server_that_falls_silent_in_commit_leaves_it_unknown_and_before_it_undone(
    pg_url, frozen_backend, in_commit
):
    async with Database(pg_url, statement_timeout=0.2, connect_timeout=0.2) as db, contextlib.AsyncExitStack() as ice:
        async with db.async_engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        with pytest.raises(CommitUnknown if in_commit else DatabaseUnavailable):
            async with db.session() as s:
                s.add(Note(body="who knows"))
                await s.flush()
                ice.enter_context(frozen_backend(await backend_pid(s)))
                if not in_commit:
                    await s.execute(text("select 1"))


@pytest.mark.usefixtures("napping_commits")
async def test_a_caller_cancelled_in_commit_is_cancelled_and_its_connection_is_home(db):
    async def work() -> None:
        async with db.session() as s:
            s.add(Note(body="who knows"))

    task = asyncio.create_task(work())
    await waiting_in(db, "PgSleep")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert db.async_engine.pool.checkedout() == 0


@pytest.mark.usefixtures("napping_commits")
async def test_a_commit_that_the_body_makes_itself_and_loses_is_unknown_too(db):
    pids: list[int] = []

    async def work() -> None:
        async with db.session() as s:
            pids.append(await backend_pid(s))
            s.add(Note(body="who knows"))
            await s.commit()

    task = asyncio.create_task(work())
    await waiting_in(db, "PgSleep")
    await terminate(db, pids[0])
    with pytest.raises(CommitUnknown):
        await task


async def test_a_lost_rollback_is_no_lost_commit(db, frozen_backend):
    with pytest.raises(DatabaseUnavailable) as lost:
        async with db.session() as s:
            s.add(Note(body="undone"))
            await s.flush()
            await terminate(db, await backend_pid(s))
            await (await s.connection()).rollback()
    assert not isinstance(lost.value, CommitUnknown)


@pytest.mark.parametrize("way", ["commit and close", "rollback", "close"])
async def test_a_body_may_end_its_transaction_itself(db, way):
    async with db.session() as s:
        await s.execute(text("insert into note (body) values ('by hand')"))
        if way == "commit and close":
            await s.commit()
        if way == "rollback":
            await s.rollback()
        else:
            await s.close()
    assert await notes(db) == (["by hand"] if way == "commit and close" else [])


async def test_one_lost_connection_does_not_condemn_the_healthy_ones_either_when_a_statement_finds_out(pg_url):
    async with Database(pg_url, min_size=3) as db, Database(pg_url) as watcher:
        with pytest.raises(DatabaseUnavailable):
            async with db.session() as s:
                await terminate(watcher, await backend_pid(s))
                await s.execute(text("select 1"))
        async with contextlib.AsyncExitStack() as held:
            for _ in range(3):
                await (await held.enter_async_context(db.session())).execute(text("select 1"))
        assert db.stats().counters.connects == 3 + 1, "more than the lost one was replaced"


async def test_a_session_that_has_ended_cannot_be_used_again(db):
    async with db.session() as s:
        await s.execute(text("select 1"))
    with pytest.raises(InvalidRequestError, match="closed"):
        await s.execute(text("select 1"))

    with pytest.raises(KeyError):
        async with db.session() as s:
            raise KeyError
    with pytest.raises(InvalidRequestError, match="closed"):
        await s.execute(text("select 1"))

    def sync_work() -> None:
        with db.sync_session() as sync:
            sync.execute(text("select 1"))
        with pytest.raises(InvalidRequestError, match="closed"):
            sync.execute(text("select 1"))
        with pytest.raises(KeyError), db.sync_session() as sync:
            raise KeyError
        with pytest.raises(InvalidRequestError, match="closed"):
            sync.execute(text("select 1"))

    await asyncio.to_thread(sync_work)


async def test_undoing_that_fails_hides_no_error_of_a_sync_body(db, caplog):
    def work(loop) -> None:
        with db.sync_session() as s:
            pid = s.scalar(text("select pg_backend_pid()"))
            asyncio.run_coroutine_threadsafe(terminate(db, pid), loop).result(10)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await asyncio.to_thread(work, asyncio.get_running_loop())
    assert db.sync_engine.pool.checkedout() == 0


def test_a_script_needs_no_event_loop_for_a_sync_session(pg_url):
    db = Database(pg_url)
    with db.sync_session() as s:
        assert s.scalar(text("select 1")) == 1
    db.sync_engine.dispose()


async def test_a_full_pool_says_how_full_and_catches_as_sqlalchemys_timeout(db):
    async with contextlib.AsyncExitStack() as held:
        for _ in range(3):
            await (await held.enter_async_context(db.session())).execute(text("select 1"))
        with pytest.raises(
            PoolTimeout, match=r"no connection within 0\.3 s from pool 'main' \(3 of 3 in use, 0 idle, "
        ) as full:
            async with db.session() as s:
                await s.execute(text("select 1"))
    assert isinstance(full.value, AlchemyTimeout)
    assert isinstance(full.value, TimeoutError)


async def test_one_waiter_more_than_allowed_is_turned_away_at_once(pg_url):
    async with Database(pg_url, max_size=1, max_waiting=1, acquire_timeout=30) as db, db.session() as holder:
        await holder.execute(text("select 1"))

        async def ask() -> int:
            async with db.session() as s:
                return await s.scalar(text("select 1"))

        waiter = asyncio.create_task(ask())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            with pytest.raises(PoolTimeout, match="max_waiting=1"):
                await ask()
        await holder.rollback()  # which gives its connection back
        assert await waiter == 1


async def test_a_sync_session_commits_rolls_back_and_is_refused_on_a_running_loop(db):
    def add(body: str, *, fail: bool) -> None:
        with db.sync_session() as s:
            s.add(Note(body=body))
            s.flush()
            if fail:
                raise KeyError(body)

    await asyncio.to_thread(add, "kept", fail=False)
    with pytest.raises(KeyError):
        await asyncio.to_thread(add, "undone", fail=True)
    assert await notes(db) == ["kept"]
    with pytest.raises(BlockedLoop, match="event loop"), db.sync_session():
        pytest.fail("a sync session was lent on a running loop")


async def test_a_sync_connection_lost_in_a_transaction_is_unavailable(db):
    def work(loop) -> None:
        with db.sync_session() as s:
            pid = s.scalar(text("select pg_backend_pid()"))
            asyncio.run_coroutine_threadsafe(terminate(db, pid), loop).result(10)
            s.execute(text("select 1"))

    with pytest.raises(DatabaseUnavailable):
        await asyncio.to_thread(work, asyncio.get_running_loop())


@pytest.mark.usefixtures("napping_commits")
async def test_a_sync_commit_that_is_lost_under_way_is_unknown(db):
    pids: list[int] = []

    def work() -> None:
        with db.sync_session() as s:
            pids.append(s.scalar(text("select pg_backend_pid()")))
            s.add(Note(body="who knows"))

    task = asyncio.create_task(asyncio.to_thread(work))
    await waiting_in(db, "PgSleep")
    await terminate(db, pids[0])
    with pytest.raises(CommitUnknown):
        await task


async def test_before_start_and_after_stop_a_session_is_refused_with_the_remedy(pg_url):
    db = Database(pg_url)
    with pytest.raises(PoolClosed, match="not started"):
        async with db.session():
            pytest.fail("a session was lent before the start")
    async with db:
        pass
    with pytest.raises(PoolClosed, match="async with database"):
        async with db.session():
            pytest.fail("a session was lent after the stop")

    def sync_one() -> None:
        with db.sync_session() as s:
            s.execute(text("select 1"))

    with pytest.raises(PoolClosed, match=r"\(sync\)' is closed"):
        await asyncio.to_thread(sync_one)
    with pytest.raises(PoolClosed, match="closed"):
        await db.async_engine.connect()
