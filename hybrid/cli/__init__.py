"""Command lines: one parser a command, shared by `seedgram` and the scripts."""
