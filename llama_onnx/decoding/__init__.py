"""Generate more than one token per pass: draft tokens, which the model then checks."""
