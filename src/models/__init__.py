"""The database: entities, both ways to reach it, and its migrations."""
