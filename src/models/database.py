"""The database, and the synchronous way to it: the code that was here first goes on working."""

from sqlalchemy.orm import sessionmaker

from pulsepool import Database
from src.config import settings

database = Database.from_settings(settings.database, name="edbotv8")
"""Both ways go through this one: one address, one set of limits."""

engine = database.sync_engine
SessionLocal = sessionmaker(bind=engine, autoflush=False, expire_on_commit=False, close_resets_only=False)
