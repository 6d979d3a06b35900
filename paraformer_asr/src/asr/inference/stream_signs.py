"""Signs in the text of a segment while it is spoken, by a punctuation model made for streams."""

from asr.inference.punctuation import Punctuator
from asr.inference.typesetting import split_text


class StreamSigns:
    """Puts signs into a text that grows.

    What is decided stays. The last word may still grow, so the model has not seen it yet, and the sign behind the word
    before it is decided with it.
    """

    def __init__(self, punctuator: Punctuator):
        self._stream, self._written, self._num_read = punctuator.stream(), "", 0

    def push(self, text: str) -> str:
        """Return all of a text that begins with the one before, with the signs that are decided."""
        words = split_text(text)
        last = words[-1][0] if words else ""
        whole = text[: text.rindex(last)]
        new, self._num_read = whole[self._num_read :], len(whole)
        if new.strip():
            self._written += self._stream.accept(new)
        return self._written + " " * whole.endswith(" ") + text[len(whole) :]
