"""Lists of utterances: JSON lines, tables of tab-separated values, folders of Kaldi."""
