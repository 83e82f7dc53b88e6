"""Makes model directories from checkpoints, converts, quantises and compares them. Needs the extra 'tools'."""
