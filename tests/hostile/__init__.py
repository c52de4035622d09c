"""Model files that ask for much: by kind, each a function that makes it; `run` tries one in a process of its own."""
