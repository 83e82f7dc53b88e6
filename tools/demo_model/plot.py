"""What a plot is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """One plot of the stories.

    Attributes:
        name: One short word.
        themes: Request phrases that continue "a story about a dog named Max ...".
        held_out_themes: Phrases of the same meaning that training never uses.
        events: Regular expressions, in lower case, of the key events; each occurs in every story of this plot.
        lines: The sentence templates.
    """

    name: str
    themes: tuple[str, ...]
    held_out_themes: tuple[str, str]
    events: tuple[str, ...]
    lines: tuple[str, ...]
