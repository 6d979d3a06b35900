"""The demo: trains on generated speech, evaluates on new utterances, and transcribes sound files.

    python scripts/demo.py

It writes to the folder demo/asr of the checkout only.
"""

import subprocess
import sys
from pathlib import Path

import soundfile

PROJECT = Path(__file__).resolve().parents[1]
OUT = PROJECT.parent / "demo" / "asr"
CONFIG = PROJECT / "configs" / "toy.yaml"
NUM_NEW_SOUNDS = 6
UNUSED_SEED = 1234


def run(module: str, *arguments: str | Path) -> None:
    """Show and run one command line of the package; stop the demo if it fails."""
    shown = " ".join(["python", "-m", module, *map(str, arguments)])
    print(f"\n$ {shown}", flush=True)
    code = subprocess.run([sys.executable, "-m", module, *map(str, arguments)]).returncode
    if code:
        sys.exit(code)


def write_new_sounds(folder: Path) -> None:
    """Write generated utterances of a seed that no split uses, and what they say."""
    from asr.config import Config
    from asr.config.reader import load_config
    from asr.data.toy_seq2seq import ToySeq2Seq

    folder.mkdir(parents=True, exist_ok=True)
    config: Config = load_config(CONFIG)
    dataset = ToySeq2Seq(config.data, config.features, "test", seed=UNUSED_SEED)
    print("\nNew utterances, and what they say:")
    for i in range(NUM_NEW_SOUNDS):
        utterance, path = dataset[i], folder / f"utterance_{i}.wav"
        soundfile.write(path, utterance.wave, config.features.sample_rate_hz)
        print(f"  {path.name}: {utterance.text}")


def main() -> None:
    """Train, evaluate, transcribe."""
    run("asr.train", "--config", CONFIG, f"runs_dir={OUT / 'runs'}")
    run_dir = max((OUT / "runs").iterdir())
    run("asr.eval", "--run", run_dir, "--split", "test")
    write_new_sounds(OUT / "new_sounds")
    run("asr.infer", "--run", run_dir, OUT / "new_sounds")
    run("asr.infer", "--run", run_dir, "--format", "srt", "--out", OUT / "subtitles", OUT / "new_sounds")

    print("\nThe speech demo is done. Look at:")
    for what, where in {
        "how it learned": run_dir / "curves.png",
        "alignments, drawn while training": run_dir / "samples",
        "scores, errors, best and worst alignment": run_dir / "eval_test",
        "sounds to listen to": OUT / "new_sounds",
        "their subtitles, with times": OUT / "subtitles",
    }.items():
        print(f"  {what:42} {where}")


if __name__ == "__main__":
    main()
