"""The configuration of videofib's TimeSformer for ``transformers``: which attention is sparse, and all sizes."""

from transformers import PretrainedConfig

SPARSE = "sparse_"  # in front of an attention type, so that code for dense attention refuses it


class VideofibTimesformerConfig(PretrainedConfig):
    """A TimeSformer (arXiv 2102.05095) whose attention may be Fibottention (arXiv 2406.19391).

    Args:
        attention_type: ``sparse_`` and one of ``divided_space_time``, ``joint_space_time`` and ``space_only``.
        attentions: for ``space``, ``time`` or ``joint`` attention its ``name`` (``dense``, ``fibottention``) and, of
            fibottention, ``w_min``, ``w_max``, ``variant``, ``head_order`` and ``masking``.
        token_order: of joint tokens, ``hwt`` (the frames of a patch side by side) or ``thw`` (frame after frame).
        image_size: (height, width) in pixels that the position embeddings are for; ``num_frames``: likewise.
        layer_scale, qk_norm, pre_norm, qkv_bias: whether there are such weights.
        class_token, num_registers: the prefix tokens. ``pooling``: ``class_token``, or ``mean`` of the patches.
        position: ``learned``, ``learned_joint`` (one embedding for each token of a clip) or ``sinusoid``.
        hidden_act: of the MLPs, ``gelu``, ``gelu_pytorch_tanh`` or ``quick_gelu``.
    """

    model_type = "videofib_timesformer"

    def __init__(
        self,
        attention_type="sparse_joint_space_time",
        attentions=None,
        token_order="hwt",
        image_size=(224, 224),
        patch_size=16,
        num_channels=3,
        num_frames=8,
        tubelet_size=1,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        qkv_bias=True,
        qk_norm=False,
        layer_scale=False,
        pre_norm=False,
        class_token=True,
        num_registers=0,
        pooling="class_token",
        position="learned",
        **others,
    ):
        self.attention_type = attention_type
        self.attentions = attentions or {}
        self.token_order = token_order
        self.image_size = list(image_size)
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.num_frames = num_frames
        self.tubelet_size = tubelet_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.layer_scale = layer_scale
        self.pre_norm = pre_norm
        self.class_token = class_token
        self.num_registers = num_registers
        self.pooling = pooling
        self.position = position
        super().__init__(**others)
