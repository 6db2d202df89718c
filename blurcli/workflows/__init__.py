"""What a command does, shared by the command line and Python."""
