"""Units in a run: deposits and stake at the start, elections, penalties, and where it all went."""
