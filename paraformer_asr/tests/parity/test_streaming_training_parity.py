"""The form in which FunASR trains a streaming Paraformer, built of this package's windows and caches.

There the windows begin with their chunk, and their look-ahead hears no earlier chunk. Here, in training as in a stream,
a window ends with the newest frame, and its look-ahead is an ordinary row. The rest is the same arithmetic.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")

from funasr import AutoModel  # noqa: E402

from asr.config import ChunkLayout  # noqa: E402
from asr.models import StreamingParaformer  # noqa: E402
from asr.models.chunks import EncoderChunks, empty_encoder_state  # noqa: E402
from asr.models.paraformer import Frames  # noqa: E402
from asr.models.streaming import Windows, whole  # noqa: E402
from asr.ops.chunks import fold  # noqa: E402
from asr.ops.masks import length_mask  # noqa: E402
from asr.ops.position import sinusoid  # noqa: E402
from asr.published.funasr import load_funasr  # noqa: E402
from streaming_folder import draw_folder, features_of, sounds  # noqa: E402

CHUNKS = ((12, 8), (15, 10))  # rows and step of the windows that a published config names
SIZES = {"small": {}, "deep": {"encoder": 3, "decoder": 2, "kernels": (11, 11)}}


class TrainingChunks(EncoderChunks):
    """Windows of one utterance whose look-ahead hears its own window alone; all but the last have whole ones."""

    def __init__(self, layout, state, frames_b, num_new_b, num_windows):
        super().__init__(layout, state, frames_b, num_new_b, num_windows)
        self._num_new_b = num_new_b
        is_last_n = jnp.arange(num_windows) == num_windows - 1
        self.valid_bnw |= ~is_last_n[None, :, None]

    def cut(self, x_btd):
        # Behind the utterance there are rows of zeros, which the others see.
        x_btd = jnp.where(length_mask(self._num_new_b, x_btd.shape[1])[..., None], x_btd, 0)
        x_mwd, valid_mw, mask_m1j = super().cut(x_btd)
        num_rows = self._layout.window
        is_own_j = jnp.arange(mask_m1j.shape[-1]) >= mask_m1j.shape[-1] - num_rows
        is_kept_w = jnp.arange(num_rows) < self._layout.size
        return x_mwd, valid_mw, mask_m1j & (is_kept_w[None, :, None] | is_own_j[None, None, :])


class TrainingForm(StreamingParaformer):
    """The network with the windows of FunASR's training; `encode` and `decode` are as ever."""

    rows: int = 15
    step_rows: int = 10

    def listen(self, features_bti, feature_lengths_b, train):
        (b, t, _), n = features_bti.shape, -(-features_bti.shape[1] // self.step_rows)
        layout = whole(ChunkLayout(0, self.step_rows, self.rows - self.step_rows, 4, 1), n)
        # The first window begins with its chunk: the frames of its look-ahead are there before it.
        before_bci = features_bti[:, : layout.right]
        positions_ci = sinusoid(layout.right, features_bti.shape[-1])
        state = empty_encoder_state(self.config, layout, b, features_bti.shape[-1])
        state = state.replace(context_bcd=before_bci * self.config.encoder.width**0.5 + positions_ci[None])
        start_b = jnp.full(b, layout.right, jnp.int32)
        chunks = TrainingChunks(layout, state, start_b, feature_lengths_b - layout.right, n)
        rest_bti = jnp.pad(features_bti[:, layout.right :], ((0, 0), (0, n * layout.size + layout.right - t), (0, 0)))
        hidden_bnwd = self._encode(chunks, rest_bti, feature_lengths_b - layout.right, train)
        alpha_bnw = self._weigh(hidden_bnwd, chunks.valid_bnw, train)
        frame_bt = jnp.broadcast_to(jnp.arange(t)[None, :], (b, t))
        place = frame_bt // layout.size, frame_bt % layout.size
        hidden_btd, alpha_bt = fold(hidden_bnwd, *place), fold(alpha_bnw[..., None], *place)[..., 0]
        without_delay = dataclasses.replace(layout, right=0)
        windows = Windows(hidden_bnwd, chunks.valid_bnw, jnp.full(b, n, jnp.int32), without_delay)
        return Frames(hidden_btd, length_mask(feature_lengths_b, t), alpha_bt, windows)


def hear_theirs(folder, features_ti, index):
    """Return (frames [t, d], weights [t + 1], mask [u, rows], logits [u, v], rows of the windows) of FunASR's form."""
    model = AutoModel(model=str(folder), disable_update=True, device="cpu", log_level="ERROR").model.eval()
    speech, lengths = torch.from_numpy(features_ti.copy())[None], torch.tensor([len(features_ti)])
    with torch.no_grad():
        hidden, hidden_lengths, _ = model.encoder(speech, lengths, ind=index)
        acoustic, counts, alphas, _ = model.calc_predictor(hidden, hidden_lengths)
        counts = counts.round().long()
        mask = model.scama_mask.clone()
        logits = model.decoder(hidden, hidden_lengths, acoustic, counts, model.scama_mask)[0]
        kept, _ = model.encoder.overlap_chunk_cls.remove_chunk(hidden, hidden_lengths, chunk_outs=None)
    return [array[0].numpy() for array in (kept, alphas, mask, logits)] + [hidden.shape[1]]


@functools.cache
def build(folder, index):
    config, _, cmvn, variables = load_funasr(folder)
    rows, step_rows = CHUNKS[index]
    model = TrainingForm(config.model, rows=rows, step_rows=step_rows)

    @functools.partial(jax.jit, static_argnums=2)
    def run(features_bti, lengths_b, num_rows):
        acoustics = model.apply(variables, features_bti, lengths_b, method="encode")
        tokens = model.apply(variables, acoustics, num_rows, method="decode")
        cumulative_bt = jnp.cumsum(acoustics.alpha_bt, axis=1)
        return acoustics, tokens, acoustics.windows.attended(cumulative_bt, num_rows)[1]

    return config, cmvn, run


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_the_training_form_is_made_of_the_same_parts(tmp_path, size, index):
    folder = draw_folder(tmp_path / "tiny", 5, **SIZES[size])
    content = yaml.safe_load((folder / "config.yaml").read_text())
    (rows_0, step_0), (rows_1, step_1) = CHUNKS
    content["encoder_conf"] |= {"chunk_size": [rows_0, rows_1], "stride": [step_0, step_1], "pad_left": [0, 0]}
    content["encoder_conf"] |= {"encoder_att_look_back_factor": [4, 4], "decoder_att_look_back_factor": [1, 1]}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    config, cmvn, run = build(folder, index)
    (rows, step_rows), shift = CHUNKS[index], (config.model.encoder.kernel_size - 1) // 2
    for length in (9600 * 6, 24500, 31000):
        features_ti = features_of(config, cmvn, np.resize(sounds()["long"], length))
        kept_td, alphas_t, mask_us, logits_uv, total = hear_theirs(folder, features_ti, index)
        t, count = len(features_ti), len(logits_uv)
        acoustics, tokens, mask_buj = run(features_ti[None], np.array([t], np.int32), count)
        np.testing.assert_allclose(acoustics.hidden_btd[0], kept_td[:t], atol=1e-4)
        kept_alphas = np.concatenate(
            [alphas_t[(k * (rows + shift) + shift) :][:step_rows] for k in range(-(-t // step_rows))]
        )
        np.testing.assert_allclose(acoustics.alpha_bt[0, :t], kept_alphas[:t], atol=1e-5)
        assert int(acoustics.token_count_b[0]) == count > 2
        np.testing.assert_allclose(tokens.logits_buv[0], logits_uv, atol=1e-4)
        # FunASR's rows: before each window there are `shift` of zeros.
        mask_unw = np.asarray(mask_buj[0]).reshape(count, -1, rows)
        theirs_unw = np.pad(mask_us, ((0, 0), (0, mask_unw.shape[1] * (rows + shift) - total)))
        theirs_unw = theirs_unw.reshape(count, -1, rows + shift)
        np.testing.assert_array_equal(mask_unw, theirs_unw[:, :, shift:] > 0)
        assert not theirs_unw[:, :, :shift].any()
