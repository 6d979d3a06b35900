"""Punctuation beside the event loop: other requests are served while the network runs."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from asr.inference.transcription import GrowingTranscript

Result = TypeVar("Result")


async def in_background(growing: GrowingTranscript, call: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of a call that may run a punctuation network; in a thread of its own if there is one.

    Args:
        growing: the transcript that the call belongs to.
        call: `growing.punctuate` or `growing.finish`.
        *arguments: of the call.
    """
    return await asyncio.to_thread(call, *arguments) if growing.punctuates else call(*arguments)
