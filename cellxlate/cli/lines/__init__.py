"""What the command line prints for people: tables, and the lines of each command."""
