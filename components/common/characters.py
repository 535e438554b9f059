"""Characters that a reader cannot see: control characters, and texts that look alike."""

import re
import unicodedata

# Control characters, and format characters without a shape of their own: zero-width spaces, marks and
# overrides of the direction, the soft hyphen. Joiners are part of words in some languages and of emoji.
_HIDDEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f"
    r"\ufeff\ufff9-\ufffb\U000e0001-\U000e007f"
)
_CONTROLS = re.compile(f"[{_HIDDEN}]")
_INVISIBLE = re.compile(rf"[\t\n{_HIDDEN}]")
_JOINERS = re.compile("[\u200c\u200d\ufe0e\ufe0f]")


def escape_controls(text: str) -> str:
    """Returns a text that can be printed on a terminal: hidden characters, such as ESC, become escapes.

    Line breaks and tabs are kept.
    """
    return _CONTROLS.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def find_invisible(text: str) -> str:
    """Returns the first character without a shape that no word has, described; empty if there is none."""
    match = _INVISIBLE.search(text)
    return describe_character(match.group()) if match else ""


def describe_character(character: str) -> str:
    """Returns the code point and the name of a character."""
    # Control characters have no name.
    return f"U+{ord(character):04X} {unicodedata.name(character, 'a control character')}"


def look_alike_key(text: str) -> str:
    """Returns a text that is the same for all texts that look the same: NFC, plain spaces, no joiners."""
    visible = _JOINERS.sub("", _INVISIBLE.sub(" ", unicodedata.normalize("NFC", text)))
    return " ".join(visible.split())


def describe_difference(first: str, second: str) -> str:
    """Returns in what two texts differ, for texts that look alike."""
    if unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second):
        return "one has composed characters (NFC), the other has decomposed ones (NFD)"
    number = next(
        (index for index, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )
    ends = [text[number : number + 1] for text in (first, second)]
    parts = [describe_character(character) if character else "missing" for character in ends]
    return f"character {number + 1} is {parts[0]} in the first and {parts[1]} in the second"
