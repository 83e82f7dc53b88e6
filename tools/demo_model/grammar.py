"""A tiny template grammar: `[a|b]` chooses, `{slot}` fills in, `?` marks a sentence that may be left out."""

import random
import re
from collections.abc import Mapping, Sequence

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
# "a" before a vowel sound; the only words of the vocabulary that start with a vowel letter but not the sound
# are left out by name.
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU]|hones)(?!use|uni|one)")


def capitalize(text: str) -> str:
    """Make the first letter upper case and leave the rest alone."""
    return text[:1].upper() + text[1:]


def expand(template: str, rng: random.Random, slots: Mapping[str, str]) -> str:
    """Expand one template.

    Args:
        template: Text with nested `[a|b]` choices and `{slot}` references; `{Slot}` is `{slot}` capitalised.
        rng: Source of the choices.
        slots: Plain text of every slot.

    Raises:
        KeyError: A slot is not known.
    """
    while match := _CHOICE.search(template):
        chosen = rng.choice(match.group(1).split("|"))
        template = template[: match.start()] + chosen + template[match.end() :]

    def fill(match: re.Match[str]) -> str:
        key = match.group(1)
        return slots[key] if key in slots else capitalize(slots[key[0].lower() + key[1:]])

    return _SLOT.sub(fill, template)


def fix_articles(text: str) -> str:
    """Turn "a owl" into "an owl"."""
    return _ARTICLE.sub(r"\1n ", text)


def expand_lines(lines: Sequence[str], rng: random.Random, slots: Mapping[str, str]) -> str:
    """Expand sentences into paragraphs; "?" before a sentence makes it optional, "¶" starts a new paragraph."""
    text = ""
    for line in lines:
        if line.startswith("?"):
            if rng.random() < 0.5:
                continue
            line = line[1:]
        if line.startswith("¶"):
            separator, line = "\n\n", line[1:]
        else:
            separator = " "
        text += (separator if text else "") + expand(line, rng, slots)
    return text
