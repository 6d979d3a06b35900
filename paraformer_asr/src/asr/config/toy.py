"""The settings of the generated speech."""

import dataclasses

from asr.config.fields import setting


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """The generated speech: letters as pairs of gliding tones."""

    num_train: int = setting(512, "training utterances", 1)
    num_val: int = setting(64, "validation utterances", 1)
    num_test: int = setting(64, "test utterances", 1)
    num_letters: int = setting(10, "number of different letters", 2, 26)
    max_words: int = setting(3, "largest number of words in an utterance", 1, 50)
    max_word_letters: int = setting(4, "largest number of letters in a word", 1, 50)
    noise: float = setting(0.02, "standard deviation of the noise, 1 = full scale", 0, 1)
