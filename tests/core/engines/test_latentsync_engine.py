"""LatentSync from files to crops, with tiny networks in the published layouts."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from lipsync_core.engines.latentsync import LATENTSYNC, LatentSync, Release, region  # noqa: E402
from lipsync_core.engines.latentsync.pictures import LatentCache  # noqa: E402
from lipsync_core.errors import SettingsError, WeightsError  # noqa: E402
from lipsync_core.faces import align  # noqa: E402
from lipsync_core.models.unet3d import UNet3D, UNetConfig  # noqa: E402
from lipsync_core.types import FaceTrack, Settings  # noqa: E402
from lipsync_core.weights import files  # noqa: E402

SIZE = 16
FPS = 25


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Talk:
    """A voice of ``seconds``: noise for speech, with nothing from 0.4 to 0.9 s."""

    def __init__(self, seconds=2.0):
        make = np.random.default_rng(3)
        self.samples = (make.standard_normal(int(seconds * 16_000)) * 0.1).astype(np.float32)
        self.samples[6_400:14_400] = 0

    @property
    def duration(self):
        return Fraction(len(self.samples), 16_000)

    def blocks(self, rate):
        for i in range(0, len(self.samples), rate):
            yield self.samples[i : i + rate]


def checkpoint(network, seeded, seed):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    made = seeded(shapes, seed)
    made |= {n: t for n, t in network.state_dict().items() if n.endswith("pos_encoder.pe")}
    return made


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, seeded):
    """A models folder as a user has it: UNet and Whisper as .pt, VAE as safetensors."""
    from diffusers import AutoencoderKL
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models")
    for sub in ("lipsync", "audio_encoders", "vae"):
        (folder / sub).mkdir()
    unet = UNet3D(UNetConfig(channels=(32, 32, 32, 32), audio_width=64))
    state = {"global_step": 1, "state_dict": checkpoint(unet, seeded, 1)}
    torch.save(state, folder / "lipsync/latentsync-1.5_unet.pt")
    config = transformers.WhisperConfig(
        d_model=64, encoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=64
    )
    ears = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    hf = {f"model.encoder.{n}": t for n, t in checkpoint(ears, seeded, 2).items()}
    save_file(hf, folder / "audio_encoders/whisper_tiny_hf.safetensors")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
    )
    save_file(checkpoint(vae, seeded, 3), folder / "vae/sd-vae-ft-mse.safetensors")
    return folder


@pytest.fixture
def machine(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("LIPSYNC_MODELS", str(shelf))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(files, "_extra", [])


@pytest.fixture
def engine(machine):
    made = LatentSync(
        Release(
            name="latentsync-1.5",
            weights="latentsync-1.5",
            size=SIZE,
            eyes=0.27,
            mouth=0.6,
            cost="tiny",
        )
    )
    yield made
    made.close()


COUNT = 50
TRACK = FaceTrack(
    points=np.zeros((COUNT, 5, 2), np.float32),
    boxes=np.zeros((COUNT, 4), np.float32),
    present=np.ones(COUNT, bool),
    strength=np.ones(COUNT, np.float32),
    shots=np.repeat([0, 1], [30, 20]).astype(np.int32),
    detector="yunet",
)


def crops(count, start=0):
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    rows = [
        np.stack([x * 4 + 3 * t, y * 5, x + y + 5 * t], -1) for t in range(start, start + count)
    ]
    return (np.stack(rows) % 256).astype(np.uint8)


def begin(engine, *, seconds=2.0, **choices):
    times = [Fraction(i, FPS) for i in range(COUNT)]
    speech = engine.listen(Talk(seconds), times)
    settings = Settings(device="cpu", **{"preset": "fast", "seed": 5} | choices)
    session = engine.start(speech=speech, track=TRACK, study=None, settings=settings)
    session.preset = replace(session.preset, steps=2)
    return session


def test_a_window_is_drawn_inside_its_mask_and_the_seed_decides(engine):
    assert engine.missing() is None
    session = begin(engine)
    frames = range(18)
    first = session.render(crops(18), frames, frames)
    assert first.crops.shape == (18, SIZE, SIZE, 3)
    assert first.masks.shape == (18, SIZE, SIZE)
    assert first.crops.min() >= 0
    assert first.crops.max() <= 255
    assert not first.masks[:, ~region.hidden(SIZE)].any()
    again = begin(engine).render(crops(18), frames, frames)
    np.testing.assert_array_equal(first.crops, again.crops)
    other = begin(engine, seed=6).render(crops(18), frames, frames)
    assert np.abs(first.crops - other.crops).mean() > 0.1


def test_the_voice_moves_the_picture(engine):
    frames = range(18)
    heard = begin(engine).render(crops(18), frames, frames).crops
    later = begin(engine).render(crops(18), frames, range(25, 43)).crops
    assert np.abs(heard - later).mean() > 0.01
    deaf = [
        begin(engine, strength=0.0).render(crops(18), frames, rows).crops
        for rows in (frames, range(25, 43))
    ]
    np.testing.assert_allclose(*deaf, atol=0.6)


@pytest.mark.parametrize("strength", [-1.0, 5.0, float("nan")])
def test_a_strength_that_means_nothing_is_refused(engine, strength):
    with pytest.raises(SettingsError, match="it goes from 0 to 3"):
        begin(engine, strength=strength)


def test_crops_go_to_the_device_as_bytes(engine, monkeypatch):
    """Half as many floats are not made on the processor, for which a GPU would wait."""
    session = begin(engine)
    places = []

    def encode(pictures):
        places.append((pictures.device.type, pictures.dtype))
        return torch.zeros(len(pictures), 4, SIZE // 2, SIZE // 2)

    monkeypatch.setattr(session.nets.pictures, "encode", encode)
    monkeypatch.setattr(session.nets.pictures, "device", torch.device("meta"))
    session._conditions(crops(3, start=900))
    assert places == [("meta", torch.float32)]


def test_what_is_hidden_cannot_leak_into_the_masked_latent(engine):
    session = begin(engine)
    one, two = crops(1), crops(1)
    two[:, region.hidden(SIZE)] = 7
    masked = [session._conditions(picture)[:, 1:5] for picture in (one, two)]
    assert torch.equal(*masked)
    assert not torch.equal(session._conditions(one)[:, 5:], session._conditions(two)[:, 5:])


def test_a_second_voice_encodes_nothing_again(engine):
    session = begin(engine)
    encoder = session.nets.pictures.vae.encoder
    calls = []
    handle = encoder.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    session.render(crops(18), range(18), range(18))
    assert sum(calls) == 36, "masked and whole"
    begin(engine, seconds=1.5).render(crops(18), range(18), range(18))
    assert sum(calls) == 36
    begin(engine).render(crops(2, start=17), [17, 18], [17, 18])
    assert sum(calls) == 38
    handle.remove()


def test_the_cache_is_bounded():
    cache = LatentCache(limit=10 * 16)
    made = []

    def make(rows):
        made.extend(rows)
        return torch.stack([torch.full((4,), float(row)) for row in rows])

    pictures = [np.full((2, 2), i, np.uint8) for i in range(30)]
    for picture in pictures:
        cache.conditions([picture], "a", make)
    assert cache.size == 160
    assert len(made) == 30
    for _ in range(2):
        cache.begin()
        for picture in pictures:
            cache.conditions([picture], "a", make)
    assert cache.size == 160
    assert len(made) == 30 + 2 * 20, "of a clip that does not fit, a second voice finds what does"
    cache.begin()
    cache.conditions(pictures[-3:], "b", make)
    assert len(made) == 73
    cache.conditions(pictures[-3:], "b", make)
    assert len(made) == 73, "what is drawn now takes the place of what was"
    both = cache.conditions([pictures[20], pictures[20]], "a", make)
    assert len(made) == 74
    assert torch.equal(both[0], both[1])
    # what is asked for together with something new is not pushed out by it
    cache.begin()
    cache.conditions([pictures[3], pictures[25]], "b", make)
    cache.conditions([pictures[27], *pictures[4:14]], "b", make)
    before = len(made)
    cache.conditions([pictures[27]], "b", make)
    assert len(made) == before


@pytest.mark.parametrize("preset", ["exact", "fast"])
def test_a_short_rest_becomes_a_whole_window_with_what_went_before(engine, preset):
    session = begin(engine, preset=preset)
    seen = []
    handle = session.nets.unet.conv_in.register_forward_hook(
        lambda _, args, __: seen.append(len(args[0]))
    )
    session.render(crops(16), range(16), range(16))
    seen.clear()
    rest = session.render(crops(3, start=16), range(16, 19), range(16, 19))
    assert set(seen) == {16}
    assert rest.crops.shape[0] == 3
    seen.clear()
    session.render(crops(3, start=40), range(40, 43), range(19, 22))
    assert set(seen) == {16}, "and after a cut it is played to and fro"
    handle.remove()


def test_windows_never_look_across_a_cut_a_gap_or_a_jump(engine):
    for sources, outputs in (
        ([30, 31], [18, 19]),  # another shot
        ([18, 19], [20, 21]),  # frames without a face between
        ([2, 3], [18, 19]),  # the clip begins again
    ):
        session = begin(engine)
        session.render(crops(18), range(18), range(18))
        follows = session.render(crops(2, start=18), sources, outputs).crops
        alone = begin(engine).render(crops(2, start=18), sources, outputs).crops
        np.testing.assert_array_equal(follows, alone)
    session = begin(engine)
    session.render(crops(18), range(18), range(18))
    follows = session.render(crops(2, start=18), [18, 19], [18, 19]).crops
    alone = begin(engine).render(crops(2, start=18), [18, 19], [18, 19]).crops
    assert np.abs(follows - alone).max() > 0.5, "where nothing parts them, they are one movement"


def test_silence_keeps_the_source_mouth_or_tells_it_to_close(engine):
    frames = range(8, 26)
    plain = begin(engine).render(crops(18), frames, frames)
    kept = begin(engine, silence="keep").render(crops(18), frames, frames)
    quiet = begin(engine).speech.silent()[8:26]
    assert 5 < quiet.sum() < 14
    inner = np.flatnonzero(quiet)[4:-4]
    assert not kept.masks[inner].any()
    np.testing.assert_array_equal(kept.masks[~quiet], plain.masks[~quiet])
    closing = begin(engine, silence="close")
    tokens = closing._tokens(list(frames))
    rows = tokens[torch.from_numpy(quiet)]
    assert torch.equal(rows, rows[:1].expand_as(rows))
    assert torch.equal(
        tokens[torch.from_numpy(~quiet)], closing.speech.tokens(frames)[torch.from_numpy(~quiet)]
    )


def test_after_the_voice_there_is_silence_not_its_last_sound(engine):
    speech = engine.listen(Talk(1.0), [Fraction(i, FPS) for i in range(COUNT)])
    assert speech.features.step_count >= 100
    assert speech.silent()[30:].all()
    mute = Talk(2.0)
    mute.samples *= 1e-4
    assert engine.listen(mute, [Fraction(i, FPS) for i in range(COUNT)]).silent().all()
    within = engine.listen(Talk(2.0), [Fraction(i, FPS) for i in range(COUNT)])
    assert within.features.step_count == 100, "nothing is appended where the voice is long enough"


def test_an_undrawn_mouth_gives_the_source_back(engine, monkeypatch):
    """Geometry alone: with decoding replaced by the source, the crop is the source."""
    session = begin(engine)
    source = crops(18)
    monkeypatch.setattr(
        session.nets.pictures,
        "decode",
        lambda latents: torch.from_numpy(source).permute(0, 3, 1, 2).float() / 127.5 - 1,
    )
    drawn = session.render(source, range(18), range(18))
    assert np.abs(drawn.crops - source).max() < 0.01


def test_the_wrong_file_is_refused_with_both_named(engine, tmp_path, monkeypatch, shelf):
    import shutil

    folder = tmp_path / "models"
    shutil.copytree(shelf, folder)
    monkeypatch.setenv("LIPSYNC_MODELS", str(folder))
    small = UNet3D(UNetConfig(channels=(32, 32, 32, 32), motion="none")).state_dict()
    torch.save(small, folder / "lipsync/latentsync-1.5_unet.pt")
    with pytest.raises(
        WeightsError, match=r"without motion modules .* where a LatentSync UNet with"
    ):
        begin(engine)
    other = UNet3D(UNetConfig(channels=(32, 32, 32, 32))).state_dict()
    torch.save(other, folder / "lipsync/latentsync-1.5_unet.pt")
    with pytest.raises(
        WeightsError, match="features 384 wide, but the Whisper that was found gives 64"
    ):
        begin(engine)


def test_a_strange_device_or_preset_is_refused(engine):
    with pytest.raises(SettingsError, match="no preset 'slow'"):
        begin(engine, preset="slow")
    settings = Settings(device="tpu")
    with pytest.raises(SettingsError, match="'tpu'"):
        engine.start(speech=None, track=TRACK, study=None, settings=settings)
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="cuda is not available"):
            engine.start(speech=None, track=TRACK, study=None, settings=Settings(device="cuda"))


@pytest.mark.parametrize("row", LATENTSYNC, ids=lambda row: row.name)
def test_every_release_says_what_it_lacks(row, monkeypatch, tmp_path):
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(files, "BUNDLED", tmp_path)
    monkeypatch.setattr(files, "_extra", [])
    absent = row.missing()
    assert absent is not None
    assert "\n" not in absent
    if row.name == "latentsync-tiny":
        assert "comes with this package" in absent
    else:
        assert f"lipsync models download {row.name} whisper-tiny sd-vae-ft-mse" in absent


@pytest.mark.parametrize("row", LATENTSYNC, ids=lambda row: row.name)
def test_crops_are_squeezed_as_in_training(row):
    template = row.template(TRACK)
    assert template.size in (64, 256, 512)
    # a face of eyes 60 apart and mouth 70 below, upright
    points = np.array([[100, 100], [160, 100], [130, 140], [110, 170], [150, 170]], float)[None]
    matrix = align.fit(points, template)[0]
    mapped = points[0] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(
        mapped[:2].mean(0) / template.size, (0.5, row.release.eyes), atol=2e-3
    )
    np.testing.assert_allclose(
        mapped[3:].mean(0) / template.size, (0.5, row.release.mouth), atol=2e-3
    )
    assert matrix[0, 0] / matrix[1, 1] == pytest.approx(4 / 3)


def test_the_preview_preset_uses_the_tiny_vae(machine, shelf, tmp_path, monkeypatch, seeded):
    import shutil

    from diffusers import AutoencoderTiny
    from safetensors.torch import save_file

    folder = tmp_path / "models"
    shutil.copytree(shelf, folder)
    (folder / "vae_approx").mkdir()
    save_file(checkpoint(AutoencoderTiny(), seeded, 4), folder / "vae_approx/taesd.safetensors")
    monkeypatch.setenv("LIPSYNC_MODELS", str(folder))
    engine = LatentSync(
        Release(
            name="latentsync-1.5", weights="latentsync-1.5", size=64, eyes=0.3, mouth=0.6, cost=""
        )
    )
    session = begin(engine, preset="preview")
    assert session.nets.pictures.tiny
    drawn = session.render(np.zeros((2, 64, 64, 3), np.uint8), [0, 1], [0, 1])
    assert np.isfinite(drawn.crops).all()


def test_a_file_of_the_sister_release_is_warned_about(monkeypatch, tmp_path, caplog):
    """1.5 and 1.6 hold the same tensors; the published files differ in size."""
    from lipsync_core.weights.catalog import entry

    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    monkeypatch.setattr(files, "_extra", [])
    path = tmp_path / "lipsync" / "latentsync-1.5_unet.pt"
    path.parent.mkdir()
    for name, warns in (("latentsync-1.6", True), ("latentsync-1.5", False)):
        with path.open("wb") as stream:
            stream.truncate(entry(name).size)
        caplog.clear()
        next(row for row in LATENTSYNC if row.name == "latentsync-1.5")._check_release()
        assert ("has the size of LatentSync 1.6 UNet" in caplog.text) == warns


def test_the_window_length_is_what_the_network_sees(engine):
    session = begin(engine, preset="fast,window=8,overlap=2")
    seen = []
    handle = session.nets.unet.conv_in.register_forward_hook(
        lambda _, args, __: seen.append(len(args[0]))
    )
    drawn = session.render(crops(18), range(18), range(18))
    handle.remove()
    assert set(seen) == {8}
    assert len(seen) == 2 * 3, "two steps of three windows"
    assert drawn.crops.shape[0] == 18
    with pytest.raises(SettingsError, match="24 at most"):
        begin(engine, preset="fast,window=25")


class Enough(BaseException):
    pass


def test_a_window_can_be_left_in_the_middle_of_a_pass(engine):
    """Somebody who presses Cancel waits for one layer, not for the window."""
    frames = range(18)
    # once before, so that what is encoded is the same for all
    whole = begin(engine).render(crops(18), frames, frames).crops
    session = begin(engine)
    asked = []
    session.heed = lambda: asked.append(1)
    session.render(crops(18), frames, frames)
    layers = sum(not list(layer.children()) for layer in session.nets.unet.modules())
    assert len(asked) > 2 * layers, "every layer of every pass asks"
    for moment in (1, len(asked) // 2, len(asked) - 1):
        session = begin(engine)
        count = 0

        def leave(moment=moment):
            nonlocal count
            count += 1
            if count == moment:
                raise Enough

        session.heed = leave
        with pytest.raises(Enough):
            session.render(crops(18), frames, frames)
        assert count == moment
        for network in (session.nets.unet, session.nets.pictures.vae):
            assert not any(layer._forward_pre_hooks for layer in network.modules())
        # and the engine is as good as new
        again = begin(engine).render(crops(18), frames, frames).crops
        np.testing.assert_array_equal(again, whole)


def test_the_bundled_network_is_told_from_a_stranger_s(tmp_path):
    from safetensors.torch import save_file

    from lipsync_core.engines.latentsync import hosted
    from lipsync_core.weights import tensors

    path = files.find("latentsync-tiny")
    assert hosted.open_checkpoint(path, dtype=torch.float32).release.name == "latentsync-tiny"
    # of another size, it may be anybody's
    other = tmp_path / "mine.safetensors"
    state = {name: value.float() for name, value in tensors.read_tensors(path).items()}
    save_file(state, other)
    with pytest.raises(WeightsError, match="choose the release"):
        hosted.open_checkpoint(other, dtype=torch.float32)
