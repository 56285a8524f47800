"""What a replica needs of the world: sockets, the child process, files, a thread."""
