"""What units are for on the main chain: tasks, rewards, deposits, licences and access."""
