"""`settings`: the service's settings, read once.

The name is taken twice on purpose: `from src.config import settings` is this object, as PRP-27 writes it, and
`src.config.settings` as a module path still holds the class.
"""

from src.config.settings import Settings

settings = Settings()
