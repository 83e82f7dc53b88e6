"""Makes model directories from checkpoints, converts, quantises and compares them; needs the extra 'tools'."""
