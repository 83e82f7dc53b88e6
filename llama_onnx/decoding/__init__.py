"""More than one token a pass: drafts that the model checks."""
