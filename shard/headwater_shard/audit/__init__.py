"""The audit: replays ledgers from their genesis and names the first thing that does not hold."""
