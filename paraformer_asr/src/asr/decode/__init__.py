"""Decoding: from logits to tokens, their confidence and their times."""

from asr.decode.arpa import NgramModel as NgramModel
from asr.decode.arpa import read_arpa as read_arpa
from asr.decode.ctc_align import CtcSpans as CtcSpans
from asr.decode.ctc_align import ctc_spans as ctc_spans
from asr.decode.ctc_beam import BeamHypothesis as BeamHypothesis
from asr.decode.ctc_beam import ctc_beam_search as ctc_beam_search
from asr.decode.firing_times import firing_times as firing_times
from asr.decode.fusion import Fusion as Fusion
from asr.decode.fusion import TokenFusion as TokenFusion
from asr.decode.fusion import WordFusion as WordFusion
from asr.decode.fusion import make_fusion as make_fusion
from asr.decode.greedy import CtcTokens as CtcTokens
from asr.decode.greedy import collapse_path as collapse_path
from asr.decode.greedy import ctc_greedy as ctc_greedy
from asr.decode.greedy import greedy as greedy
from asr.decode.hotword_automaton import HotwordAutomaton as HotwordAutomaton
from asr.decode.hotword_automaton import TokenKinds as TokenKinds
from asr.decode.hotword_automaton import build_automaton as build_automaton
from asr.decode.hotword_fusion import HotwordFusion as HotwordFusion
from asr.decode.hotword_search import search_ctc as search_ctc
from asr.decode.hotword_search import search_tokens as search_tokens
from asr.decode.timestamps import spans_to_alignment as spans_to_alignment
from asr.decode.timestamps import token_times as token_times
