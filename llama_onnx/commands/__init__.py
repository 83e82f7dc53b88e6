"""The command line: one file per verb, `terminal.py` and `options.py` for what the verbs share."""
