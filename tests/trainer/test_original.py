"""LatentSync's own training files load as the recipes that come along."""

from __future__ import annotations

import copy
import logging

import pytest

pytest.importorskip("omegaconf")
pytest.importorskip("torch")

from omegaconf import OmegaConf

from lipsync_core.errors import SettingsError
from trainer import config

UNET = {
    "data": {
        "syncnet_config_path": "configs/syncnet/syncnet_16_pixel_attn.yaml",
        "train_output_dir": "debug/unet",
        "train_fileslist": "list.txt",
        "train_data_dir": "",
        "audio_embeds_cache_dir": "cache/embeds",
        "audio_mel_cache_dir": "cache/mel",
        "val_video_path": "a.mp4",
        "val_audio_path": "a.wav",
        "batch_size": 1,
        "num_workers": 12,
        "num_frames": 16,
        "resolution": 256,
        "mask_image_path": "mask.png",
        "audio_sample_rate": 16000,
        "video_fps": 25,
        "audio_feat_length": [2, 2],
    },
    "ckpt": {"resume_ckpt_path": "checkpoints/latentsync_unet.pt", "save_ckpt_steps": 10000},
    "run": {
        "pixel_space_supervise": False,
        "use_syncnet": False,
        "sync_loss_weight": 0.05,
        "perceptual_loss_weight": 0.1,
        "recon_loss_weight": 1,
        "guidance_scale": 1.5,
        "trepa_loss_weight": 10,
        "inference_steps": 20,
        "seed": 1247,
        "use_mixed_noise": True,
        "mixed_noise_alpha": 1,
        "mixed_precision_training": True,
        "enable_gradient_checkpointing": True,
        "max_train_steps": 10000000,
        "max_train_epochs": -1,
    },
    "optimizer": {
        "lr": 1e-5,
        "scale_lr": False,
        "max_grad_norm": 1.0,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
    },
    "model": {
        "act_fn": "silu",
        "add_audio_layer": True,
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 384,
        "down_block_types": [*["CrossAttnDownBlock3D"] * 3, "DownBlock3D"],
        "mid_block_type": "UNetMidBlock3DCrossAttn",
        "up_block_types": ["UpBlock3D", *["CrossAttnUpBlock3D"] * 3],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 13,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "resnet_time_scale_shift": "default",
        "use_motion_module": False,
        "motion_module_resolutions": [1, 2, 4, 8],
        "motion_module_mid_block": False,
        "motion_module_decoder_only": False,
        "motion_module_type": "Vanilla",
        "motion_module_kwargs": {
            "num_attention_heads": 8,
            "num_transformer_block": 1,
            "attention_block_types": ["Temporal_Self", "Temporal_Self"],
            "temporal_position_encoding": True,
            "temporal_position_encoding_max_len": 24,
            "temporal_attention_dim_div": 1,
            "zero_initialize": True,
        },
    },
}
SECOND = {
    "run.pixel_space_supervise": True,
    "run.use_syncnet": True,
    "run.trainable_modules": ["motion_modules.", "attentions."],
    "model.use_motion_module": True,
}
SYNCNET = {
    "model": {
        "audio_encoder": {
            "in_channels": 1,
            "block_out_channels": [32, 64, 128, 256, 512, 1024, 2048],
            "downsample_factors": [[2, 1], 2, 2, 1, 2, 2, [2, 3]],
            "attn_blocks": [0, 0, 0, 1, 1, 0, 0],
            "dropout": 0.0,
        },
        "visual_encoder": {
            "in_channels": 48,
            "block_out_channels": [64, 128, 256, 256, 512, 1024, 2048, 2048],
            "downsample_factors": [[1, 2], 2, 2, 2, 2, 2, 2, 2],
            "attn_blocks": [0, 0, 0, 0, 1, 1, 0, 0],
            "dropout": 0.0,
        },
    },
    "ckpt": {
        "resume_ckpt_path": "",
        "inference_ckpt_path": "checkpoints/stable_syncnet.pt",
        "save_ckpt_steps": 2500,
    },
    "data": {
        "train_output_dir": "debug/syncnet",
        "num_val_samples": 2048,
        "batch_size": 256,
        "gradient_accumulation_steps": 1,
        "num_workers": 12,
        "latent_space": False,
        "num_frames": 16,
        "resolution": 256,
        "train_fileslist": "list.txt",
        "train_data_dir": "",
        "val_fileslist": "",
        "val_data_dir": "clips/val",
        "audio_mel_cache_dir": "cache/mel",
        "lower_half": True,
        "audio_sample_rate": 16000,
        "video_fps": 25,
    },
    "optimizer": {"lr": 1e-5, "max_grad_norm": 1.0},
    "run": {
        "max_train_steps": 10000000,
        "validation_steps": 2500,
        "mixed_precision_training": True,
        "seed": 42,
    },
}
PLAIN = {
    "model.audio_encoder.attn_blocks": [0] * 7,
    "model.visual_encoder.attn_blocks": [0] * 8,
}
LATENT = {
    "model.audio_encoder.block_out_channels": [32, 64, 128, 256, 512, 1024],
    "model.audio_encoder.downsample_factors": [[2, 1], 2, 2, 2, 2, [2, 3]],
    "model.audio_encoder.attn_blocks": [0] * 6,
    "model.visual_encoder.in_channels": 64,
    "model.visual_encoder.block_out_channels": [64, 128, 256, 256, 512, 1024],
    "model.visual_encoder.downsample_factors": [2, 2, 2, 1, 2, 2],
    "model.visual_encoder.attn_blocks": [0] * 6,
    "data.num_val_samples": 1200,
    "data.batch_size": 120,
    "data.latent_space": True,
    "data.lower_half": False,
}
SECONDS = {
    "model.audio_encoder.block_out_channels": [64, 128, 256, 256, 512, 1024],
    "model.audio_encoder.downsample_factors": [2] * 6,
    "model.visual_encoder.in_channels": 75,
    "model.visual_encoder.block_out_channels": [128, 128, 256, 256, 512, 512, 1024, 1024],
    "data.batch_size": 64,
    "data.num_frames": 25,
}
FILES = {
    "stage1": (UNET, {}),
    "stage1_512": (UNET, {"data.resolution": 512}),
    "stage2": (UNET, SECOND),
    "stage2_512": (UNET, {**SECOND, "data.resolution": 512}),
    "stage2_efficient": (
        UNET,
        {
            **SECOND,
            "run.trainable_modules": ["motion_modules.", "attn2."],
            "run.trepa_loss_weight": 0,
            "model.motion_module_decoder_only": True,
        },
    ),
    "syncnet_16_pixel_attn": (SYNCNET, {}),
    "syncnet_16_pixel": (SYNCNET, PLAIN),
    "syncnet_16_latent": (SYNCNET, LATENT),
    "syncnet_25_pixel": (SYNCNET, SECONDS),
}
PLACES = {"model.init", "data.validation"}
"""Paths, which are of another machine in any case."""


@pytest.fixture
def write(tmp_path):
    def make(name, **changes):
        base, different = FILES[name]
        layer = OmegaConf.create(copy.deepcopy(base))
        for key, value in {**different, **changes}.items():
            OmegaConf.update(layer, key, value, merge=False)
        if name == "syncnet_25_pixel":
            # as published: without these
            del layer.model.audio_encoder.attn_blocks
            del layer.model.visual_encoder.attn_blocks
        path = tmp_path / f"{name}.yaml"
        OmegaConf.save(layer, path)
        return path

    return make


@pytest.mark.parametrize("name", FILES)
def test_each_of_the_nine_is_the_recipe_of_its_name(write, name, caplog):
    with caplog.at_level(logging.WARNING):
        theirs = config.load(write(name))
    assert set(config.differences(theirs, config.load(name))) <= PLACES
    assert len(caplog.records) == 1
    said = caplog.text
    assert "train_fileslist is ignored" in said
    assert ("attn_blocks" in said) == (name == "syncnet_25_pixel")


def test_what_stage_two_is_made_of(write):
    stage = config.load(write("stage2_efficient")).stages["stage2"]
    assert (stage.motion, stage.trainable) == ("decoder", ["motion_modules.", "attn2."])
    loss = stage.loss
    assert (loss.noise, loss.sync, loss.lpips, loss.trepa) == (1, 0.05, 0.1, 0)
    first = config.load(write("stage1")).stages["stage1"].loss
    # the weights stand in the file, but nothing is decoded
    assert (first.noise, first.sync, first.lpips, first.trepa) == (1, 0, 0, 0)


def test_key_value_is_laid_over_it_in_our_words(write):
    recipe = config.load(write("stage1"), ["stages.stage1.batch=8", "data.train=[clips]"])
    assert (recipe.stages["stage1"].batch, recipe.data.train) == (8, ["clips"])
    assert recipe.model.init == "checkpoints/latentsync_unet.pt"


@pytest.mark.parametrize(
    ("name", "change", "value", "said"),
    [
        (
            "stage1",
            "run.sync_los_weight",
            1,
            "run.sync_los_weight; did you mean 'sync_loss_weight'",
        ),
        ("stage1", "model.act_fn", "relu", "model.act_fn is relu; only silu"),
        ("stage1", "data.video_fps", 30, "data.video_fps is 30; only 25"),
        ("stage1", "data.num_frames", 7, "data.sampling is 'contiguous-7'"),
        ("stage1", "optimizer.lr_scheduler", "polynomial", "lr_scheduler is 'polynomial'"),
        ("stage1", "run.max_train_epochs", 3, "epochs cannot be had"),
        ("syncnet_16_pixel", "data.latent_space", True, "data.latent_space is True"),
        ("syncnet_16_pixel", "model.visual_encoder.in_channels", 50, "none of syncnet-16-pixel"),
        ("syncnet_16_pixel", "model.visual_encoder.widht", 5, "model.visual_encoder.widht"),
        ("syncnet_16_pixel", "extra", {"a": 1}, "no section extra"),
        ("stage1", "ckpt", None, "ckpt is a section"),
        ("stage1", "run.max_train_steps", "ten", "another kind than in LatentSync's"),
        ("stage1", "model.block_out_channels", 320, "another kind than in LatentSync's"),
        ("syncnet_16_pixel", "data.batch_size", 0, "another kind than in LatentSync's"),
    ],
)
def test_what_cannot_be_had_is_one_line(write, name, change, value, said):
    with pytest.raises(SettingsError, match=said) as caught:
        config.load(write(name, **{change: value}))
    assert "\n" not in str(caught.value)


def test_a_setting_that_is_missing_is_named(write, tmp_path):
    path = write("stage1")
    layer = OmegaConf.load(path)
    del layer.run.recon_loss_weight
    OmegaConf.save(layer, path)
    with pytest.raises(SettingsError, match=r"run\.recon_loss_weight is missing"):
        config.load(path)
