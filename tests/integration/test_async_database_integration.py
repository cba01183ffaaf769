"""Integration tests for async database."""
import pytest
from sqlalchemy import text

from src.models.async_database import get_database

@pytest.mark.asyncio
async def test_async_database_connection():
    """Test actual async database connection."""
    async with get_database() as db:
        result = await db.execute(text("SELECT 1 as test"))
        row = result.fetchone()
        assert row[0] == 1

@pytest.mark.asyncio
async def test_async_health_check_query():
    """Test health check query through async database."""
    async with get_database() as db:
        result = await db.execute(text("SELECT version() as pg_version"))
        row = result.fetchone()
        assert "PostgreSQL" in str(row[0])
