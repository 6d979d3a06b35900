"""The steps of a streaming Paraformer beside FunASR's own program, fed with FunASR's own features of each piece.

Folders of several seeds and sizes, chunks and look-backs: the tokens are equal, and every array is to rounding.
"""

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")

from funasr import AutoModel  # noqa: E402

from asr.inference.loading import load_parts  # noqa: E402
from asr.published.funasr import load_funasr, save_funasr  # noqa: E402
from streaming_folder import caches_of, draw_folder, hear, layout_of, pieces_of, sounds  # noqa: E402

SETTINGS = [
    ((0, 10, 5), 4, 1),
    ((5, 10, 5), 4, 1),
    ((0, 8, 4), 4, 1),
    ((0, 10, 5), 0, 0),
    ((0, 10, 5), -1, 1),
    ((3, 7, 2), 1, 2),
]
SIZES = {
    "small": {},
    "deep": {"encoder": 3, "decoder": 2, "kernels": (11, 11), "mels": 10},
    "wide": {"width": 32, "num_heads": 4, "ffn": 40, "encoder": 4, "decoder": 3, "kernels": (7, 3), "mels": 80},
}


def open_theirs(folder):
    return AutoModel(model=str(folder), disable_update=True, disable_pbar=True, device="cpu", log_level="ERROR")


def hear_theirs(theirs, wave_n, layout, call=None):
    """Return what FunASR makes of each piece: what goes in, comes out, and is kept; `call`: samples of a call."""
    model, pieces = theirs.model, []
    kept = {name: getattr(model, name) for name in ("generate_chunk", "calc_predictor_chunk")}
    decode = model.decoder.forward_chunk

    def generate_chunk(speech, lengths, **kwargs):
        tail = kwargs["cache"]["encoder"]["tail_chunk"]
        features_ti = np.zeros((0, speech.shape[-1]), "f4") if tail else speech[0].numpy().copy()
        pieces.append({"features": features_ti, "is_last": kwargs["is_final"], "logits": None})
        tokens = kept["generate_chunk"](speech, lengths, **kwargs)
        pieces[-1] |= snapshot(kwargs["cache"])
        return tokens

    def forward_chunk(*inputs):
        out_buv = decode(*inputs)
        pieces[-1]["logits"] = out_buv[0].numpy().copy()
        return out_buv

    def calc_predictor_chunk(hidden_bwd, *args, **kwargs):
        pieces[-1]["hidden"] = hidden_bwd[0].numpy().copy()
        return kept["calc_predictor_chunk"](hidden_bwd, *args, **kwargs)

    model.generate_chunk, model.calc_predictor_chunk = generate_chunk, calc_predictor_chunk
    model.decoder.forward_chunk = forward_chunk
    look_backs = {
        "encoder_chunk_look_back": layout.encoder_look_back,
        "decoder_chunk_look_back": layout.decoder_look_back,
    }
    chunk_size, cache, texts = [layout.left, layout.size, layout.right], {}, []
    call = call or len(wave_n)
    try:
        for start in range(0, len(wave_n), call):
            settings = {"is_final": start + call >= len(wave_n), "chunk_size": chunk_size} | look_backs
            texts.append(theirs.generate(input=wave_n[start : start + call], cache=cache, **settings)[0]["text"])
    finally:
        model.generate_chunk, model.calc_predictor_chunk = kept.values()
        model.decoder.forward_chunk = decode
    return pieces, texts


def snapshot(cache):
    """Return what FunASR keeps, as [rows, d], by our names."""

    def rows(heads_baje):
        return heads_baje[0].transpose(0, 1).flatten(1).numpy().copy()

    encoder, decoder = cache["encoder"], cache["decoder"]
    named = {"weight": encoder["cif_alphas"].numpy().copy(), "embedding": encoder["cif_hidden"][0].numpy().copy()}
    if not encoder["tail_chunk"]:  # it is scaled there once more, without effect
        named["context"] = encoder["feats"][0].numpy().copy()
    for part, caches in (("encoder", encoder["opt"]), ("decoder", decoder["opt"])):
        for number, each in enumerate(caches or []):
            if each:
                named |= {f"{part}{number}_{key}": rows(each[key]) for key in "kv"}
    for number, memory_bdk in enumerate(decoder["decode_fsmn"] or []):
        if memory_bdk is not None:
            named[f"memory{number}"] = memory_bdk[0].T.numpy().copy()
    return named


def compare(ours, theirs, tolerance=1e-4):
    """Compare what both made of each piece; return the number of tokens of each."""
    counts = []
    for (state, logits_uv, alpha_w), piece in zip(ours, theirs, strict=True):
        expected_uv = piece["logits"] if piece["logits"] is not None else np.zeros((0, logits_uv.shape[1]))
        assert len(logits_uv) == len(expected_uv)
        assert list(logits_uv.argmax(-1)) == list(expected_uv.argmax(-1))
        np.testing.assert_allclose(logits_uv, expected_uv, atol=tolerance)
        assert np.isfinite(alpha_w).all()
        for name, array in caches_of(state).items():
            # Behind the last piece nothing is heard: of the windows then only what counts is kept by either.
            if name in piece and not (piece["is_last"] and name.startswith(("encoder", "decoder", "context"))):
                expected = piece[name]
                rows = min(len(array), len(expected))  # FunASR's grow; ours begin with zeros that are not seen
                assert rows > 0, name
                np.testing.assert_allclose(array[-rows:], expected[-rows:], atol=tolerance, err_msg=name)
        counts.append(len(logits_uv))
    return counts


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [5, 7])
def test_every_piece_is_funasrs(tmp_path, size, seed):
    folder = draw_folder(tmp_path / "tiny", seed, **SIZES[size])
    config, _, _, variables = load_funasr(folder)
    theirs, counts = open_theirs(folder), []
    for setting in SETTINGS if size == "small" else SETTINGS[(seed - 5) // 2 :: 2]:
        layout = layout_of(*setting)
        for name, wave_n in sounds().items():
            pieces, _ = hear_theirs(theirs, wave_n, layout)
            fed = [(piece["features"], len(piece["features"]), piece["is_last"]) for piece in pieces]
            features_ti = np.concatenate([features_ti for features_ti, *_ in fed])
            cut = pieces_of(features_ti, len(wave_n), layout)
            assert [each[1:] for each in cut] == [each[1:] for each in fed], name
            counts += compare(hear(config, variables, layout, cut), pieces)
    assert sum(counts) > 20 and (0 in counts or size == "deep")


@pytest.mark.parametrize("call", [1600, 3333, 9600, 30000])
def test_the_calls_do_not_matter(tmp_path, call):
    folder = draw_folder(tmp_path / "tiny", 2)
    config, _, _, variables = load_funasr(folder)
    theirs, layout, wave_n = open_theirs(folder), layout_of(), sounds()["tail"]
    pieces, texts = hear_theirs(theirs, wave_n, layout, call)
    once, (text,) = hear_theirs(theirs, wave_n, layout)
    cut = pieces_of(np.concatenate([piece["features"] for piece in once]), len(wave_n), layout)
    assert sum(compare(hear(config, variables, layout, cut), pieces)) > 2
    assert text and any(texts)


def test_funasr_reads_what_is_written_here(tmp_path):
    folder, written = draw_folder(tmp_path / "tiny", 5), tmp_path / "written"
    written.mkdir()
    save_funasr(written, *load_parts(folder))
    texts = [hear_theirs(open_theirs(path), sounds()["long"], layout_of())[1] for path in (folder, written)]
    assert texts[0] == texts[1] and len(texts[0][0]) > 5
    content = yaml.safe_load((written / "config.yaml").read_text())
    assert content["decoder_conf"]["sanm_shfit"] == 2 and content["encoder_conf"]["input_layer"] == "pe_online"
