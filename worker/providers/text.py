"""Text as it may enter the log: valid Unicode, though the pieces it came in need not be."""


class Surrogates:
    """Joins the halves of characters that were cut in two by the pieces a text came in.

    JSON may say 😀 as two escapes, and a provider that cuts by UTF-16 units puts them in different chunks. A
    half without its other half becomes U+FFFD.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""
        """A first half at the end of the last piece, or empty."""

    def feed(self, text: str) -> str:
        """What may be said now; may be empty."""
        if not self._held and (text.isascii() or _valid(text)):
            return text
        text = self._held + text
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return mended(text[:-1] if self._held else text)

    def flush(self) -> str:
        """What is left at the end of the text."""
        held, self._held = self._held, ""
        return mended(held)


def mended(text: str) -> str:
    """The text with surrogate pairs joined, and lone halves as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
