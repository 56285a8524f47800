"""What a device needs of a disk: one database, one lock, files that are whole or absent."""
