"""Justice: evidence, penalties, jail, and the count of missed blocks."""
