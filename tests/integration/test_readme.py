"""The README's example is an application that works."""

import re
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import text

README = Path(__file__).parent.parent.parent / "README.md"


async def test_the_example_application_creates_an_order(pg_url):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    address = re.search(r'Database\("(.*?)"', code).group(1)
    module: dict[str, Any] = {"__name__": "example"}
    exec(code.replace(address, pg_url), module)  # noqa: S102 - it is ours, and this is the point
    app, db = module["app"], module["db"]
    async with app.router.lifespan_context(app):
        async with db.session() as session:
            await session.execute(text("create table orders (name text)"))
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as client:
            created = await client.post("/orders", params={"name": "tea"})
        assert (created.status_code, created.json()) == (201, {"name": "tea"})
        async with db.session() as session:
            assert (await session.scalars(text("select name from orders"))).all() == ["tea"]
