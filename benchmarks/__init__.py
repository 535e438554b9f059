"""Programs that a person runs to see what a claim rests on: each prints a table and one line of JSON."""
