import copy
import dataclasses
import logging
import pickle
import pprint
import sys
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsepool.dsn import Dsn
from pulsepool.errors import ConfigurationError

PLANTED = "hunter2/Zx"
WHOLE = (
    "postgresql://ed:hunter2%2FZx@db1/edbot?sslpassword=hunter2%2FZx&oauth_client_secret=hunter2%2FZx&sslmode=require"
)


def leaks(text: str) -> bool:
    return any(planted in text for planted in (PLANTED, "hunter2%2FZx", "hunter2"))


def local_values(error: BaseException) -> Iterator[object]:
    """Every local of every frame in the tracebacks of `error` and of what it hangs on, but this file's own."""
    for link in (error, error.__cause__, error.__context__):
        trace = link.__traceback__ if link else None
        while trace:
            if trace.tb_frame.f_code.co_filename != __file__:
                yield from trace.tb_frame.f_locals.values()
            trace = trace.tb_next


def test_no_way_of_showing_an_address_shows_a_secret(caplog):
    dsn = Dsn.parse(WHOLE)
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r", dsn, dsn)
    shown = [
        str(dsn),
        repr(dsn),
        f"{dsn}{dsn!r}{dsn!a}{dsn:}",
        "%s %r" % (dsn, dsn),  # noqa: UP031 - the old way must hide it too
        pprint.pformat(dsn),
        pprint.pformat(dataclasses.asdict(dsn)),
        str(dataclasses.astuple(dsn)),
        str([getattr(dsn, field.name) for field in dataclasses.fields(dsn)]),
        dsn.render(),
        dsn.where,
        repr(dsn.secrets),
        repr(dsn.sqlalchemy_url("psycopg")),
        str(dsn.sqlalchemy_url("asyncpg")),
        caplog.text,
    ]
    assert [text for text in shown if leaks(text)] == []
    assert str(dsn) == "postgresql://ed:***@db1/edbot?sslmode=require&oauth_client_secret=***&sslpassword=***"
    assert repr(dsn) == f"Dsn('{dsn}')"
    assert leaks(dsn.render(hide_password=False))


def test_an_address_has_no_dict_to_look_into():
    with pytest.raises(TypeError):
        vars(Dsn.parse(WHOLE))


def test_an_address_is_frozen_and_hashable_and_copies_are_equal():
    dsn = Dsn.parse(WHOLE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dsn.user = "eve"
    with pytest.raises(TypeError):
        dsn.parameters["sslmode"] = "disable"
    assert {dsn: 1}[Dsn.parse(WHOLE)] == 1
    assert dsn != dsn.replace(password="other")
    assert copy.deepcopy(dsn) == pickle.loads(pickle.dumps(dsn)) == dsn  # noqa: S301 - our own bytes


def attempt(text: str) -> Dsn | ConfigurationError:
    try:
        return Dsn.parse(text)
    except ConfigurationError as error:
        return error


MALFORMED = [
    "postgresql://ed:{}",
    "postgresql://ed:{}@",
    "postgresql://ed:{}@db1:port/edbot",
    "postgresql://ed:{}@db1:99999/edbot",
    "postgresql://ed:{}@db 1/edbot",
    "postgresql://ed:{}@[::g]/edbot",
    "postgresql://ed:{}@db1/edbot?sslmode=maybe",
    "postgresql://ed:{}@db1/edbot?nonsense=1",
    "postgresql://ed:{}@db1/edbot?nonsense",
    "postgresql://ed:{}@db1/%FF",
    "postgresql://ed:{}%FF@db1/edbot",
    "postgresql://ed:{}%00@db1/edbot",
    "postgresql://e/d:{}@db1:x",
    "postgresql://db1:{}/edbot",
    "postgresql://corp/ed:{}@db1:x/edbot",
    "postgresql://ed:12/{}@db1:x/edbot",
    "postgresql://db1/edbot?password={}&nonsense=1",
    "postgresql://db1/edbot?password={}&password=x",
    "postgresql://db1/edbot?password=x&{}=1",
    "postgresql://db1/edbot?sslpassword={}&port=x",
    "postgresql://db1/edbot?sslmode=@{}",
    "postgresql:ed:{}@db1/edbot",
    "jdbc:postgresql://db1/edbot?user=ed&password={}",
    "mysql://ed:{}@db1/edbot",
    "postgresql+nodriver://ed:{}@db1/edbot",
    "ed:{}@db1/edbot?sslmode=require",
    "{}",
    "host=db1 password={} port=x",
    "host=db1 password={} nonsense=1",
    "host=db1 password='{}",
    "host=db1 password=x {}",
    "host=db1 password=x {}=1",
    "host=db1 password={}\\",
    "host=db1 password='{}\0'",
    "host=db1 password='{}\udc80'",
    "host=db1 password={} service=nonsense",
    "host=db1 password={} hostaddr=x",
    "host=db1 password={} require_auth=x",
    "host=db1 password={} command_timeout=x",
    "host=db1 password={} sslrootcert=system sslmode=allow",
]


@pytest.mark.parametrize("form", MALFORMED)
@pytest.mark.parametrize("secret", ["hunter2", "hunter2/Zx", "hunter2?Zx", "hunter2@Zx", "hunter2%2FZx", "hunter2:Zx"])
def test_an_address_that_cannot_be_read_stays_secret(form, secret):
    made = attempt(form.replace("{}", secret))
    if isinstance(made, Dsn):  # a raw special character made it readable after all
        assert not leaks(str(made))
        return
    assert not leaks(str(made) + made.hint + "".join(traceback.format_exception(made)))
    assert [value for value in local_values(made) if leaks(repr(value))] == []
    assert made.__context__ is None


def test_a_number_without_a_host_behind_it_may_be_a_password():
    refusal = attempt("postgresql://ed:99999")
    assert isinstance(refusal, ConfigurationError)
    assert "99999" not in str(refusal)


def test_a_refusal_of_parts_stays_secret_too():
    dsn = Dsn.parse("postgresql://ed:other@db1")
    for make in (
        lambda: Dsn.from_parts(password=PLANTED, port=0),
        lambda: dsn.replace(password=PLANTED, sslmode="x"),
        lambda: dsn.merge(password=PLANTED),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert [value for value in local_values(caught.value) if leaks(repr(value))] == []
        assert not leaks("".join(traceback.format_exception(caught.value)))


def test_a_driver_refusal_keeps_its_locals_secret():
    dsn = Dsn.parse(WHOLE)
    with pytest.raises(ConfigurationError, match="oauth_client_secret") as caught:
        dsn.connect_args("asyncpg")
    assert [value for value in local_values(caught.value) if leaks(repr(value))] == []


def test_a_refusal_made_while_another_error_is_handled_is_cut_off_as_well():
    try:
        sys.exit("unrelated")
    except SystemExit:
        with pytest.raises(ConfigurationError) as caught:
            Dsn.parse(f"postgresql://ed:{PLANTED}")
    assert [value for value in local_values(caught.value) if leaks(repr(value))] == []


@given(st.text(st.sampled_from("hz/?@:%#=&' \\[],+.0"), min_size=1, max_size=30))
@settings(max_examples=400)
def test_no_text_however_broken_raises_anything_but_a_refusal(text):
    for form in ("postgresql://{}", "postgresql://ed:{}@db1/edbot", "host=db1 password={}", "{}"):
        made = attempt(form.replace("{}", text))
        if isinstance(made, Dsn):
            assert Dsn.parse(made.render(hide_password=False)) == made
        else:
            assert made.hint
