"""EDBotv8: questions of an emergency department, answered from its own documents."""
