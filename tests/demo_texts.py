"""What the embedded model says, word for word: the only place to change when it is trained anew."""

from __future__ import annotations

BONJOUR = "Bonjour ! Voulez-vous écouter une histoire ?"  # generate -p bonjour --seed 1, and demo.py
BONJOUR_START = "Bonjour"  # its first tokens, with -n 3
