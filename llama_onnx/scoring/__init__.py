"""How well a model predicts a text and answers multiple-choice questions, one layer at a time."""
