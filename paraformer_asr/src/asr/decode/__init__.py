"""Decoding: from logits to tokens, their confidence and their times."""

from asr.decode.arpa import NgramModel, read_arpa
from asr.decode.ctc_align import CtcSpans, ctc_spans
from asr.decode.ctc_beam import BeamHypothesis, ctc_beam_search
from asr.decode.fusion import Fusion, TokenFusion, WordFusion, make_fusion
from asr.decode.greedy import CtcTokens, ctc_greedy, greedy
from asr.decode.timestamps import spans_to_alignment, token_times

__all__ = [
    "BeamHypothesis",
    "CtcSpans",
    "CtcTokens",
    "Fusion",
    "NgramModel",
    "TokenFusion",
    "WordFusion",
    "ctc_beam_search",
    "ctc_greedy",
    "ctc_spans",
    "greedy",
    "make_fusion",
    "read_arpa",
    "spans_to_alignment",
    "token_times",
]
