"""What the command line does to data folders: read, list, prove, sign, set up; it prints itself."""
