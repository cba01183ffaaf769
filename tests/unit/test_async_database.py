"""Test async database connection management."""
import pytest
from unittest.mock import AsyncMock, patch
from sqlalchemy.ext.asyncio import AsyncSession

from src.models.async_database import get_database, init_async_database

@pytest.mark.asyncio
async def test_async_database_context_manager():
    """Test async database context manager."""
    with patch('src.models.async_database.AsyncSessionLocal') as mock_session:
        mock_db = AsyncMock(spec=AsyncSession)
        mock_session.return_value.__aenter__.return_value = mock_db
        
        async with get_database() as db:
            assert db is mock_db
            
        mock_db.commit.assert_called_once()
        mock_db.close.assert_called_once()

@pytest.mark.asyncio 
async def test_async_database_rollback_on_error():
    """Test database rollback on exception."""
    with patch('src.models.async_database.AsyncSessionLocal') as mock_session:
        mock_db = AsyncMock(spec=AsyncSession)
        mock_session.return_value.__aenter__.return_value = mock_db
        
        with pytest.raises(ValueError):
            async with get_database() as db:
                raise ValueError("Test error")
                
        mock_db.rollback.assert_called_once()
        mock_db.close.assert_called_once()
