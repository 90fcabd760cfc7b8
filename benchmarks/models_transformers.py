"""Networks of Transformers from configurations, with random weights: `transformers:DetrForObjectDetection` and others.

They have every part of the published networks and fewer layers and channels; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

from torch import nn

VIT = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
TOWERS = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 30,
}
HYBRID = {
    "encoder_in_channels": [64, 96, 128],
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "d_model": 64,
    "decoder_in_channels": [64, 64, 64],
    "decoder_ffn_dim": 96,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "num_queries": 30,
}
STAGES = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}
GROUPS: dict[str, Any] = {
    "d_model": 64,
    "decoder_layers": 2,
    "decoder_ffn_dim": 128,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "num_queries": 30,
    "group_detr": 2,
    "c2f_num_blocks": 1,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": VIT | {"image_size": 128},
    "SwinForImageClassification": {"embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]},
    "ConvNextForImageClassification": {"hidden_sizes": [48, 96, 192, 384], "depths": [2, 2, 2, 2]},
    "ResNetForImageClassification": {"embedding_size": 32, "hidden_sizes": [64, 128, 256, 512], "depths": [1, 1, 1, 1]},
    "SegformerForImageClassification": {"depths": [1, 1, 1, 1]},
    "SegformerForSemanticSegmentation": {"depths": [1, 1, 1, 1]},
    "DPTForDepthEstimation": {
        **VIT,
        "num_hidden_layers": 4,
        "image_size": 128,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [24, 48, 96, 96],
        "fusion_hidden_size": 32,
    },
    "Dinov2Model": {key: VIT[key] for key in VIT if key != "intermediate_size"} | {"mlp_ratio": 2, "image_size": 224},
    "DINOv3ViTModel": VIT | {"image_size": 128},
    "DINOv3ConvNextModel": {"hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 2, 1]},
    "CLIPVisionModel": VIT | {"image_size": 128},
    "SiglipVisionModel": VIT | {"image_size": 128},
    "DetrForObjectDetection": TOWERS,
    "ConditionalDetrForObjectDetection": TOWERS,
    "DeformableDetrForObjectDetection": TOWERS,
    "RTDetrForObjectDetection": HYBRID,
    "RTDetrV2ForObjectDetection": HYBRID,
    "DFineForObjectDetection": HYBRID | {"decoder_n_points": [4, 4, 4]},
    "RfDetrForObjectDetection": GROUPS,
    "LwDetrForObjectDetection": GROUPS | {"projector_scale_factors": [1.0]},
    "YolosForObjectDetection": VIT | {"image_size": [128, 128], "num_detection_tokens": 20},
    "VideoMAEForVideoClassification": VIT | {"image_size": 112, "num_frames": 8},
    "TimesformerForVideoClassification": VIT | {"image_size": 112, "num_frames": 4},
}
"""Class -> arguments of its configuration."""
SIZES = {"DeformableDetrForObjectDetection": 160, "RfDetrForObjectDetection": 112, "LwDetrForObjectDetection": 128}
"""Side of the image in pixels, where it is not 128, or what the configuration says."""


def build(name: str) -> nn.Module:
    """The network of that class, such as `DetrForObjectDetection`."""
    import transformers

    transformers.logging.set_verbosity_error()
    kind = getattr(transformers, name)
    model: nn.Module = kind(kind.config_class(**OPTIONS[name] | _backbone(name)))
    return model


def image_size(name: str, model: Any) -> int:
    """Side of the image that the network is measured with, in pixels."""
    size = getattr(model.config, "image_size", None)
    return SIZES.get(name) or (size[0] if isinstance(size, list | tuple) else size) or 128


def frames(model: Any) -> int:
    """Number of images in a clip; 0 where the network takes single images."""
    return int(getattr(model.config, "num_frames", 0))


def _backbone(name: str) -> dict[str, Any]:
    import transformers

    of_resnet = {"embedding_size": 16, "layer_type": "basic", **STAGES}
    if name in ("DetrForObjectDetection", "ConditionalDetrForObjectDetection", "DeformableDetrForObjectDetection"):
        stages = ["stage4"] if "Deformable" not in name else ["stage2", "stage3", "stage4"]
        return {
            "backbone_config": transformers.ResNetConfig(**of_resnet, out_features=stages),
            "use_timm_backbone": False,
        }
    if name.startswith("RTDetr"):
        stages = ["stage2", "stage3", "stage4"]
        return {
            "backbone_config": transformers.RTDetrResNetConfig(
                **of_resnet | {"embedding_size": 32}, out_features=stages
            )
        }
    if name.startswith("DFine"):
        return {
            "backbone_config": transformers.HGNetV2Config(
                stem_channels=[3, 8, 16],
                stage_in_channels=[16, 32, 64, 96],
                stage_mid_channels=[8, 16, 24, 32],
                stage_out_channels=[32, 64, 96, 128],
                stage_num_blocks=[1, 1, 1, 1],
                stage_numb_of_layers=[2, 2, 2, 2],
                embedding_size=16,
                out_features=["stage2", "stage3", "stage4"],
                **STAGES,
            )
        }
    if name.startswith("RfDetr"):
        options = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 112}
        return {
            "backbone_config": transformers.RfDetrDinov2Config(
                **options, out_features=["stage2", "stage4"], num_register_tokens=0
            )
        }
    if name.startswith("LwDetr"):
        options = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 128}
        return {
            "backbone_config": transformers.LwDetrViTConfig(
                **options, window_block_indices=[0, 2], out_indices=[2, 4], pretrain_image_size=128
            )
        }
    return {}
