"""Training files in the layout of ByteDance's LatentSync, as recipes of ours.

Facts: LatentSync at commit a229c39 (Apache-2.0), names of the settings in its nine YAML files and
what its two training scripts do with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

from lipsync_core.errors import SettingsError

UNET: Mapping[str, Mapping[str, Any]] = {
    "data": {
        "audio_sample_rate": 16000,
        "video_fps": 25,
        "audio_feat_length": [2, 2],
    },
    "run": {},
    "ckpt": {},
    "optimizer": {},
    "model": {
        "act_fn": "silu",
        "add_audio_layer": True,
        "center_input_sample": False,
        "down_block_types": [*["CrossAttnDownBlock3D"] * 3, "DownBlock3D"],
        "mid_block_type": "UNetMidBlock3DCrossAttn",
        "up_block_types": ["UpBlock3D", *["CrossAttnUpBlock3D"] * 3],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 13,
        "out_channels": 4,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "default",
        "motion_module_mid_block": False,
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
"""What has one value here: another one cannot be had."""

UNET_READ: Mapping[str, tuple[str, ...]] = {
    "data": (
        "syncnet_config_path",
        "train_data_dir",
        "batch_size",
        "num_workers",
        "num_frames",
        "resolution",
    ),
    "ckpt": ("resume_ckpt_path", "save_ckpt_steps"),
    "run": (
        "pixel_space_supervise",
        "use_syncnet",
        "sync_loss_weight",
        "perceptual_loss_weight",
        "recon_loss_weight",
        "trepa_loss_weight",
        "trainable_modules",
        "seed",
        "use_mixed_noise",
        "mixed_noise_alpha",
        "mixed_precision_training",
        "enable_gradient_checkpointing",
        "max_train_steps",
        "max_train_epochs",
    ),
    "optimizer": ("lr", "scale_lr", "max_grad_norm", "lr_scheduler", "lr_warmup_steps"),
    "model": (
        "attention_head_dim",
        "block_out_channels",
        "cross_attention_dim",
        "layers_per_block",
        "norm_num_groups",
        "use_motion_module",
        "motion_module_resolutions",
        "motion_module_decoder_only",
    ),
}
SYNCNET: Mapping[str, Mapping[str, Any]] = {
    "data": {"audio_sample_rate": 16000, "video_fps": 25},
    "run": {},
    "ckpt": {},
    "optimizer": {},
    "model": {},
}
SYNCNET_READ: Mapping[str, tuple[str, ...]] = {
    "data": (
        "num_val_samples",
        "batch_size",
        "gradient_accumulation_steps",
        "num_workers",
        "latent_space",
        "num_frames",
        "resolution",
        "train_data_dir",
        "val_data_dir",
        "lower_half",
    ),
    "ckpt": ("resume_ckpt_path", "save_ckpt_steps"),
    "run": ("max_train_steps", "validation_steps", "mixed_precision_training", "seed"),
    "optimizer": ("lr", "max_grad_norm"),
    "model": ("audio_encoder", "visual_encoder"),
}
IGNORED: Mapping[str, str] = {
    "train_output_dir": "the run goes to run.output",
    "train_fileslist": "data.train takes folders that lipsync_core.preprocess made",
    "val_fileslist": "data.validation takes such folders",
    "audio_embeds_cache_dir": "features lie with the clips",
    "audio_mel_cache_dir": "features lie with the clips",
    "val_video_path": "clips that are held out are rendered",
    "val_audio_path": "clips that are held out are rendered",
    "mask_image_path": "the mask is drawn, at any resolution",
    "guidance_scale": "of the validation alone",
    "inference_steps": "of the validation alone",
    "sample_size": "the network takes any size",
    "inference_ckpt_path": "not for training",
}
"""What has no place here, and why."""

SYNCNETS: Mapping[str, str] = {
    "syncnet_16_pixel_attn": "latentsync-1.6-syncnet",
    "syncnet_16_pixel": "latentsync-1.0-syncnet",
}
"""Published networks by the name of their file of settings."""

SCHEDULES: Mapping[str, str] = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
}
WHISPERS: Mapping[int, str] = {384: "whisper-tiny", 768: "whisper-small"}


def recognised(layer: Mapping[str, Any]) -> bool:
    """Whether a file is one of theirs: only theirs have these sections at the top."""
    return {"ckpt", "optimizer", "model"} <= set(layer) and "stages" not in layer


def recipe(layer: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The recipe, as ``config.load`` reads it, and what it leaves out or does otherwise."""
    notes: list[str] = []
    for section, given in layer.items():
        if not isinstance(given, Mapping):
            raise SettingsError(f"{section} is a section; give names and values")
    hears = "audio_encoder" in layer["model"]
    _check(layer, SYNCNET if hears else UNET, SYNCNET_READ if hears else UNET_READ, notes)
    try:
        return (_syncnet if hears else _unet)(layer, notes), notes
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        # what is only handed on is checked with the recipe; the rest is reckoned with here
        raise SettingsError(
            f"a value is of another kind than in LatentSync's files ({error})"
        ) from error


def _unet(layer: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    data, run, model = layer["data"], layer["run"], layer["model"]
    ckpt, optimizer = layer["ckpt"], layer["optimizer"]
    pixels = bool(run["pixel_space_supervise"])
    motion = "none"
    if model["use_motion_module"]:
        motion = "decoder" if model.get("motion_module_decoder_only") else "all"
    network = {
        "init": ckpt.get("resume_ckpt_path") or "",
        "channels": list(model["block_out_channels"]),
        "layers": model["layers_per_block"],
        "heads": model["attention_head_dim"],
        "groups": model["norm_num_groups"],
        "audio_width": model["cross_attention_dim"],
        "motion_scales": list(model["motion_module_resolutions"]),
    }
    if model["cross_attention_dim"] in WHISPERS:
        network["whisper"] = WHISPERS[model["cross_attention_dim"]]
    if run["use_syncnet"]:
        name = PurePosixPath(data["syncnet_config_path"]).stem
        network["syncnet"] = SYNCNETS.get(name, "")
        if name not in SYNCNETS:
            notes.append(f"no published network is made as {name} says: give model.syncnet")
    if optimizer.get("scale_lr"):
        notes.append("scale_lr is ignored: give the learning rate that you mean")
    epochs = run.get("max_train_epochs", -1)
    if run["max_train_steps"] < 0 or epochs != -1:
        raise SettingsError(
            "run.max_train_epochs cannot be had, for clips are drawn without end; give "
            "run.max_train_steps and -1 epochs"
        )
    schedule = optimizer.get("lr_scheduler", "constant")
    if schedule not in SCHEDULES:
        raise SettingsError(
            f"optimizer.lr_scheduler is {schedule!r}; there are {', '.join(SCHEDULES)}"
        )
    stage = {
        "steps": run["max_train_steps"],
        "batch": data["batch_size"],
        "trainable": list(run.get("trainable_modules") or []),
        "motion": motion,
        "mixed_noise": run["mixed_noise_alpha"] if run["use_mixed_noise"] else 0.0,
        "loss": {
            "noise": run["recon_loss_weight"],
            "lpips": run["perceptual_loss_weight"] if pixels else 0.0,
            "sync": run["sync_loss_weight"] if run["use_syncnet"] else 0.0,
            "trepa": run["trepa_loss_weight"] if pixels else 0.0,
        },
        "optimizer": {
            "learning_rate": optimizer["lr"],
            "schedule": SCHEDULES[schedule],
            "warmup": optimizer.get("lr_warmup_steps", 0),
            "clip": optimizer["max_grad_norm"],
        },
    }
    return {
        "task": "latentsync",
        "seed": run["seed"],
        "data": _data(data),
        "model": network,
        "stages": {"stage2" if pixels or motion != "none" else "stage1": stage},
        "run": {
            "precision": "fp16" if run["mixed_precision_training"] else "no",
            "gradient_checkpointing": run["enable_gradient_checkpointing"],
            "validate_every": ckpt["save_ckpt_steps"],
            "save_every": ckpt["save_ckpt_steps"],
        },
    }


def _syncnet(layer: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    data, run, ckpt = layer["data"], layer["run"], layer["ckpt"]
    kind = _kind(layer["model"], notes)
    latent = kind == "syncnet-16-latent"
    if bool(data["latent_space"]) != latent or bool(data["lower_half"]) == latent:
        raise SettingsError(
            f"data.latent_space is {data['latent_space']} and data.lower_half {data['lower_half']}; "
            f"{kind} looks at {'whole latents' if latent else 'lower halves of pictures'}"
        )
    stage = {
        "steps": run["max_train_steps"],
        "batch": data["batch_size"],
        "accumulate": data["gradient_accumulation_steps"],
        "loss": {"noise": 0.0, "sync": 1.0},
        "optimizer": {
            "learning_rate": layer["optimizer"]["lr"],
            "clip": layer["optimizer"]["max_grad_norm"],
        },
    }
    given = _data(data)
    if data.get("val_data_dir"):
        given["validation"] = [data["val_data_dir"]]
    return {
        "task": "syncnet",
        "seed": run["seed"],
        "data": given,
        "model": {"init": ckpt.get("resume_ckpt_path") or "", "syncnet_kind": kind},
        "stages": {"syncnet": stage},
        "run": {
            "precision": "fp16" if run["mixed_precision_training"] else "no",
            "gradient_checkpointing": False,
            "validate_every": run["validation_steps"],
            "validation_batches": math.ceil(data["num_val_samples"] / data["batch_size"]),
            "save_every": ckpt["save_ckpt_steps"],
        },
    }


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "train": [data["train_data_dir"]] if data.get("train_data_dir") else [],
        "sampling": f"contiguous-{data['num_frames']}",
        "resolution": data["resolution"],
        "workers": data["num_workers"],
    }


def _kind(model: Mapping[str, Any], notes: list[str]) -> str:
    """The key of ``syncnet.BY_KIND`` that is built this way."""
    from lipsync_core.models.syncnet import BY_KIND, Ladder

    built = []
    for side in ("audio_encoder", "visual_encoder"):
        given = model[side]
        known = (
            "in_channels",
            "block_out_channels",
            "downsample_factors",
            "attn_blocks",
            "dropout",
        )
        for name in given:
            if name not in known:
                raise SettingsError(
                    f"there is no setting model.{side}.{name}; {_near(name, known)}"
                )
        if given.get("dropout"):
            notes.append(f"model.{side}.dropout is ignored: 0 is used")
        factors = [(f, f) if isinstance(f, int) else tuple(f) for f in given["downsample_factors"]]
        attention = given.get("attn_blocks")
        if attention is None:
            notes.append(f"model.{side} has no attn_blocks: none are built")
        built.append(
            Ladder(
                in_channels=given["in_channels"],
                channels=tuple(given["block_out_channels"]),
                factors=tuple(factors),
                attention=tuple(i for i, flag in enumerate(attention or []) if flag),
            )
        )
    for name, one in BY_KIND.items():
        if (one.audio, one.visual) == tuple(built):
            return name
    raise SettingsError(
        f"model.audio_encoder and model.visual_encoder are none of {', '.join(BY_KIND)}; such a "
        "network cannot be trained here"
    )


def _check(
    layer: Mapping[str, Any],
    fixed: Mapping[str, Mapping[str, Any]],
    read: Mapping[str, tuple[str, ...]],
    notes: list[str],
) -> None:
    """Knows every name, or says so; notes what has no effect; refuses what cannot be had."""
    for section, given in layer.items():
        if section not in read:
            raise SettingsError(f"there is no section {section}; {_near(section, tuple(read))}")
        known = (*read[section], *fixed[section], *IGNORED)
        for name, value in given.items():
            if name not in known:
                raise SettingsError(f"there is no setting {section}.{name}; {_near(name, known)}")
            if name in fixed[section] and not _same(value, fixed[section][name]):
                raise SettingsError(
                    f"{section}.{name} is {value}; only {fixed[section][name]} can be trained here"
                )
            if name in IGNORED and value not in ("", None):
                notes.append(f"{section}.{name} is ignored: {IGNORED[name]}")
    for section, names in read.items():
        needed = [name for name in names if name not in OPTIONAL]
        missing = [name for name in needed if name not in (layer.get(section) or {})]
        if missing:
            raise SettingsError(f"{section}.{missing[0]} is missing")


OPTIONAL = (
    "trainable_modules",
    "train_data_dir",
    "val_data_dir",
    "resume_ckpt_path",
    "lr_scheduler",
    "lr_warmup_steps",
    "scale_lr",
    "max_train_epochs",
    "motion_module_decoder_only",
    "syncnet_config_path",
)
"""What a file may leave out."""


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(value, (int, float, str)):
        try:
            return math.isclose(float(value), wanted)
        except ValueError:
            return False
    return value == wanted


def _near(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
